"""Which group each RPC belongs to."""

import pytest

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, TRAINING_SERVICE, service_rpcs
from serving.security.permissions import Group, group_of

EXPECTED = {"ModelInfer": Group.INFER, "ModelStreamInfer": Group.INFER}
CHANGES = {"RepositoryModelLoad", "RepositoryModelUnload"}


@pytest.mark.parametrize("rpc", [rpc.name for rpc in service_rpcs(INFERENCE_SERVICE)])
def test_inference_reads_unless_it_infers(rpc: str) -> None:
    expected = EXPECTED.get(rpc, Group.ADMIN if rpc in CHANGES else Group.READ)

    assert group_of(f"/{INFERENCE_SERVICE}/{rpc}", open_health=True) is expected


@pytest.mark.parametrize("rpc", [rpc.name for rpc in service_rpcs(TRAINING_SERVICE)])
def test_every_call_of_training_belongs_to_its_group(rpc: str) -> None:
    assert group_of(f"/{TRAINING_SERVICE}/{rpc}", open_health=True) is Group.TRAIN


def test_loading_belongs_to_administration() -> None:
    for rpc in CHANGES:
        assert group_of(f"/{INFERENCE_SERVICE}/{rpc}", open_health=True) is Group.ADMIN


def test_health_is_open_only_where_configured() -> None:
    assert group_of(f"/{HEALTH_SERVICE}/Check", open_health=True) is None
    assert group_of(f"/{HEALTH_SERVICE}/Check", open_health=False) is Group.READ


@pytest.mark.parametrize("method", ["/grpc.reflection.v1alpha.ServerReflection/X", "/unknown/X", "", "/"])
def test_other_methods_need_a_token_that_reads(method: str) -> None:
    assert group_of(method, open_health=True) is Group.READ
