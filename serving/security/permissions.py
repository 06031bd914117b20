"""Groups of calls, and the group that each RPC belongs to. A token allows the groups in its line."""

from enum import StrEnum

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, TRAINING_SERVICE


class Group(StrEnum):
    """A group of calls."""

    INFER = "infer"
    """ModelInfer and ModelStreamInfer."""
    READ = "read"
    """Metadata, configuration, statistics, the repository's index, operating points, and reflection."""
    ADMIN = "admin"
    """RepositoryModelLoad and RepositoryModelUnload."""
    TRAIN = "train"
    """All calls of offramp.v1.Training."""


_INFERENCE = {
    "ModelInfer": Group.INFER,
    "ModelStreamInfer": Group.INFER,
    "RepositoryModelLoad": Group.ADMIN,
    "RepositoryModelUnload": Group.ADMIN,
}
_SERVICES = {TRAINING_SERVICE: Group.TRAIN}


def group_of(method: str, *, open_health: bool) -> Group | None:
    """Return the group of a method, `/service/rpc`; None if everybody may call it.

    open_health: whether everybody may call the standard health service, as probes do.
    """
    service, _, rpc = method.removeprefix("/").partition("/")
    if service == HEALTH_SERVICE and open_health:
        return None
    if service == INFERENCE_SERVICE:
        return _INFERENCE.get(rpc, Group.READ)
    return _SERVICES.get(service, Group.READ)
