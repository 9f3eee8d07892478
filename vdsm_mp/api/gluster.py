# SPDX-License-Identifier: Apache-2.0
"""The Gluster* verbs: declared by name, answered "not supported"; a host without gluster does the same."""

from vdsm_mp.api.verb import Message, verb

NAMES: dict[str, tuple[str, ...]] = {
    "GlusterHook": (
        "add",
        "disable",
        "enable",
        "list",
        "read",
        "remove",
        "update",
    ),
    "GlusterHost": (
        "add",
        "createBrick",
        "list",
        "processesStop",
        "remove",
        "removeByUuid",
        "storageDevicesList",
        "logicalVolumeList",
        "physicalVolumeList",
        "vdoVolumeList",
        "uuid",
    ),
    "GlusterService": (
        "action",
        "get",
    ),
    "GlusterSnapshot": (
        "activate",
        "configList",
        "configSet",
        "deactivate",
        "delete",
        "restore",
    ),
    "GlusterTask": ("list",),
    "GlusterVolume": (
        "addBrick",
        "create",
        "delete",
        "geoRepConfigList",
        "geoRepConfigReset",
        "geoRepConfigSet",
        "geoRepKeysGet",
        "geoRepMountBrokerSetup",
        "geoRepSessionCreate",
        "geoRepSessionDelete",
        "geoRepSessionList",
        "geoRepSessionPause",
        "geoRepSessionResume",
        "geoRepSessionStart",
        "geoRepSessionStatus",
        "geoRepSessionStop",
        "list",
        "metaVolumeMount",
        "profileInfo",
        "profileStart",
        "profileStop",
        "rebalanceStart",
        "rebalanceStatus",
        "rebalanceStop",
        "removeBrickCommit",
        "removeBrickForce",
        "removeBrickStart",
        "removeBrickStatus",
        "removeBrickStop",
        "replaceBrickCommitForce",
        "reset",
        "set",
        "setOptionsList",
        "snapshotConfigList",
        "snapshotConfigSet",
        "snapshotCreate",
        "snapshotDeleteAll",
        "snapshotList",
        "snapshotScheduleOverride",
        "snapshotScheduleReset",
        "start",
        "statsInfoGet",
        "status",
        "stop",
        "volumeEmptyCheck",
        "geoRepKeysUpdate",
        "healInfo",
        "resetBrickStart",
        "resetBrickCommitForce",
        "globalVolumeOptions",
    ),
    "GlusterEvent": (
        "webhookAdd",
        "webhookUpdate",
        "webhookSync",
        "webhookDelete",
    ),
}


def _declare() -> None:
    for namespace, names in NAMES.items():
        for name in names:
            title = f"{namespace}{name[0].upper()}{name[1:]}"
            message = type(title, (Message,), {"__doc__": "Planned.", "__module__": __name__})
            verb(f"{namespace}.{name}", owner="storage", tier=3, planned=True)(message)


_declare()
