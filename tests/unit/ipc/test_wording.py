# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import pytest

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.ipc import codec

ID = "11111111-2222-3333-4444-555555555555"
REFRESH, POOL = "StoragePool.refresh", {"storagepoolID": ID, "masterSdUUID": ID}


@pytest.mark.parametrize(
    ("verb", "params", "said"),
    [
        ("VM.getStats", {}, "vmID is missing"),
        ("VM.getStats", {"vmID": "5"}, "vmID: a UUID in lower case is needed"),
        ("VM.getStats", {"vmID": ID.upper().replace("1", "A")}, "vmID: a UUID in lower case is needed"),
        ("VM.getStats", {"vmID": [1]}, "vmID: text is needed, not a list"),
        ("Lease.info", {"lease": {"sd_id": ID}}, "lease.lease_id is missing"),
        ("Lease.info", {"lease": {"sd_id": "x", "lease_id": ID}}, "lease.sd_id: a UUID in lower case is needed"),
        ("Host.getVMList", {"onlyUUID": "yes"}, "onlyUUID: true or false is needed, not text"),
        ("Host.getVMList", {"vmList": ID}, "vmList: a list is needed, not text"),
        ("Host.getVMList", {"vmList": [ID, 7]}, "vmList[1]: a UUID in lower case is needed"),
        ("VM.changeCD", {"vmID": ID, "driveSpec": [1]}, "driveSpec[0]: an object is needed, not a whole number"),
        ("VM.setBalloonTarget", {"vmID": ID, "target": "much"}, "target: a whole number is needed, not text"),
        ("VM.getStats", "text", "an object is needed, not text"),
        (REFRESH, {**POOL, "masterVersion": "-1"}, "masterVersion: at least 0 is needed"),
        (REFRESH, {**POOL, "masterVersion": 2**31}, "masterVersion: at most 2147483647 is needed"),
    ],
)
def test_a_wrong_parameter_is_told_in_words(verb: str, params: Any, said: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        codec.decode_params(VERBS[verb], json.dumps(params).encode())
    assert caught.value.detail.startswith(said)
