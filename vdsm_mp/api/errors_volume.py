# SPDX-License-Identifier: Apache-2.0
"""Errors of volumes and images, with VDSM's numbers (200-268, 349, 481-484, 750-757, 911-947, 1000)."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed, NotFound, Unavailable


class VolumeDoesNotExist(NotFound):
    code = 201
    msg = "Volume does not exist: {self.volume_id}"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class IncorrectFormat(BadRequest):
    code = 202
    msg = "Format of the volume does not fit: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class VolumeHasChildren(Conflict):
    code = 204
    msg = "Volume {self.volume_id} has children: {self.children}"

    def __init__(self, volume_id: str, children: str) -> None:
        super().__init__(volume_id, children)
        self.volume_id = volume_id
        self.children = children


class VolumeCreationFailed(Failed):
    """What was begun is removed."""

    code = 205
    msg = "Volume {self.volume_id} was not created: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeExtendFailed(Failed):
    """The volume says the size it had; asked again, it goes on."""

    code = 206
    msg = "Volume {self.volume_id} was not grown: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeAlreadyExists(Conflict):
    code = 212
    msg = "Volume exists already: {self.volume_id}"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class VolumeNotWritable(Conflict):
    code = 213
    msg = "Volume {self.volume_id} is not writable: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class SharedVolumeNotWritable(Conflict):
    code = 219
    msg = "Volume {self.volume_id} is a template, its content stays"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class InternalVolumeNotWritable(Conflict):
    code = 220
    msg = "Volume {self.volume_id} carries others, its content stays: {self.children}"

    def __init__(self, volume_id: str, children: str) -> None:
        super().__init__(volume_id, children)
        self.volume_id = volume_id
        self.children = children


class VolumeNotShareable(Conflict):
    code = 214
    msg = "Volume {self.volume_id} is no template, another image cannot be based on it"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class VolumeIsShared(Conflict):
    code = 223
    msg = "Volume {self.volume_id} is a template which other images use: {self.users}"

    def __init__(self, volume_id: str, users: str) -> None:
        super().__init__(volume_id, users)
        self.volume_id = volume_id
        self.users = users


class VolumeCopyFailed(Failed):
    """A new volume is removed, one that was there stays illegal."""

    code = 225
    msg = "Volume {self.volume_id} was not copied: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class ParentIsIllegal(Conflict):
    code = 226
    msg = "Volume {self.volume_id} is illegal, nothing can be based on it"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class PrepareIllegalVolume(Conflict):
    code = 227
    msg = "Volume {self.volume_id} is illegal and may not be prepared"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class IncorrectType(BadRequest):
    code = 231
    msg = "Allocation of the volume does not fit: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class VolumeResizeRefused(BadRequest):
    code = 232
    msg = "Volume {self.volume_id} cannot get that size: {self.detail}"

    def __init__(self, volume_id: str, detail: str) -> None:
        super().__init__(volume_id, detail)
        self.volume_id = volume_id
        self.detail = detail


class VolumeUpdateRefused(Conflict):
    code = 235
    msg = "Volume {self.volume_id} cannot be changed so: {self.detail}"

    def __init__(self, volume_id: str, detail: str) -> None:
        super().__init__(volume_id, detail)
        self.volume_id = volume_id
        self.detail = detail


class ImageActionFailed(Failed):
    """Nothing was changed that a guest could see."""

    code = 250
    msg = "Image {self.image_id}: {self.reason}"

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(image_id, reason)
        self.image_id = image_id
        self.reason = reason


class CopyImageFailed(Failed):
    """The destination may hold a part of the data."""

    code = 261
    msg = "Image {self.image_id} was not copied: {self.reason}"

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(image_id, reason)
        self.image_id = image_id
        self.reason = reason


class ImageIsNotLegalChain(Conflict):
    code = 262
    msg = "Image {self.image_id} has no legal chain: {self.detail}"

    def __init__(self, image_id: str, detail: str) -> None:
        super().__init__(image_id, detail)
        self.image_id = image_id
        self.detail = detail


class TemplateInUse(Conflict):
    code = 266
    msg = "Template image {self.image_id} is used by others and cannot be moved"

    def __init__(self, image_id: str) -> None:
        super().__init__(image_id)
        self.image_id = image_id


class ImageDoesNotExist(NotFound):
    code = 268
    msg = "Image {self.image_id} does not exist in domain {self.sd_id}"

    def __init__(self, image_id: str, sd_id: str) -> None:
        super().__init__(image_id, sd_id)
        self.image_id = image_id
        self.sd_id = sd_id


class DiscardNotSupported(BadRequest):
    code = 349
    msg = "Domain {self.sd_id} cannot discard"

    def __init__(self, sd_id: str) -> None:
        super().__init__(sd_id)
        self.sd_id = sd_id


class ImageDaemonUnreachable(Unavailable):
    code = 481
    msg = "The image daemon cannot be reached: {self.reason}"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImageDaemonRefused(Failed):
    """The daemon's own sentence."""

    code = 482
    msg = "The image daemon refused ticket {self.ticket_id}: {self.reason}"

    def __init__(self, ticket_id: str, reason: str) -> None:
        super().__init__(ticket_id, reason)
        self.ticket_id = ticket_id
        self.reason = reason


class ImageVerificationFailed(Failed):
    """The volume was only read."""

    code = 484
    msg = "Volume {self.volume_id} must not be used: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeMetadataInvalid(Failed):
    """Nothing was changed; what cannot be understood is not repaired."""

    code = 751
    msg = "Metadata of volume {self.volume_id} is invalid: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeMetadataBadValue(Failed):
    """Nothing was changed."""

    code = 753
    msg = "Metadata of volume {self.volume_id} has a bad value: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeMetadataTooLong(Failed):
    """The metadata are as they were."""

    code = 756
    msg = "Metadata of volume {self.volume_id} takes {self.size} bytes of 512"

    def __init__(self, volume_id: str, size: int) -> None:
        super().__init__(volume_id, size)
        self.volume_id = volume_id
        self.size = size


class VolumeMetadataCleared(Failed):
    """Nothing was changed; the volume is being removed, or was."""

    code = 757
    msg = "Metadata of volume {self.volume_id} was cleared"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id


class GenerationMismatch(Conflict):
    code = 911
    msg = "Volume {self.volume_id} has generation {self.actual}, {self.wanted} was requested"

    def __init__(self, volume_id: str, wanted: int, actual: int) -> None:
        super().__init__(volume_id, wanted, actual)
        self.volume_id = volume_id
        self.wanted = wanted
        self.actual = actual


class VolumeNotInChain(Conflict):
    code = 920
    msg = "Volume {self.volume_id} is not in the chain of image {self.image_id}"

    def __init__(self, volume_id: str, image_id: str) -> None:
        super().__init__(volume_id, image_id)
        self.volume_id = volume_id
        self.image_id = image_id


class WrongParentVolume(Conflict):
    code = 921
    msg = "The parent of volume {self.volume_id} is {self.actual}, not {self.wanted}"

    def __init__(self, volume_id: str, wanted: str, actual: str) -> None:
        super().__init__(volume_id, wanted, actual)
        self.volume_id = volume_id
        self.wanted = wanted
        self.actual = actual


class UnexpectedVolumeState(Conflict):
    code = 922
    msg = "Volume {self.volume_id} is not as expected: {self.detail}"

    def __init__(self, volume_id: str, detail: str) -> None:
        super().__init__(volume_id, detail)
        self.volume_id = volume_id
        self.detail = detail


class BitmapDoesNotExist(NotFound):
    code = 947
    msg = "Bitmap {self.bitmap} does not exist in volume {self.volume_id}"

    def __init__(self, bitmap: str, volume_id: str) -> None:
        super().__init__(bitmap, volume_id)
        self.bitmap = bitmap
        self.volume_id = volume_id


class InvalidVolumeParameter(BadRequest):
    code = 1000
    msg = "Parameter {self.name} is not valid: {self.value}"

    def __init__(self, name: str, value: str) -> None:
        super().__init__(name, value)
        self.name = name
        self.value = value


VOLUME_UNKNOWN = (ImageDoesNotExist, VolumeDoesNotExist)
VOLUME_UNREADABLE = (VolumeMetadataInvalid, VolumeMetadataBadValue, VolumeMetadataCleared)
