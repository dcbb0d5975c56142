"""Who a process is in the table: its owner, instance and rank, from SGLang's manager."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.compat import IncompatibleSGLangError, identify
from tests.support.standin import manager


class TestIdentity:
    @pytest.mark.parametrize(
        ("others", "owner", "rank", "world_size"),
        [
            ({}, "prefill/10.0.0.1:8998@10.0.0.1:40000", 0, 1),
            ({"attn_tp_size": 4, "attn_tp_rank": 3}, "prefill/10.0.0.1:8998/tp3@10.0.0.1:40000", 3, 4),
            (
                {"attn_tp_size": 2, "attn_tp_rank": 1, "pp_size": 3, "pp_rank": 2},
                "prefill/10.0.0.1:8998/tp1/pp2@10.0.0.1:40000",
                5,
                6,
            ),
            (
                {"attn_cp_size": 2, "attn_cp_rank": 1, "pp_size": 2},
                "prefill/10.0.0.1:8998/cp1/pp0@10.0.0.1:40000",
                1,
                4,
            ),
            ({"attn_dp_size": 2, "attn_dp_rank": 1}, "prefill/10.0.0.1:8998/dp1@10.0.0.1:40000", 0, 1),
            ({"system_dp_size": 2}, "prefill/10.0.0.1:8998/dp0@10.0.0.1:40000", 0, 1),
            (
                {"dist_init_addr": "10.0.0.9:5000", "local_ip": "10.0.0.10"},
                "prefill/10.0.0.9:8998@10.0.0.10:40000",
                0,
                1,
            ),
        ],
    )
    def test_prefill_process_has_owner_rank_and_world_size(self, others, owner, rank, world_size):
        identity = identify(manager(**others))
        assert (identity.owner, identity.rank, identity.world_size) == (owner, rank, world_size)

    def test_stages_of_one_pipeline_list_the_same_ranks(self):
        identities = [identify(manager(attn_tp_size=2, attn_tp_rank=1, pp_size=3, pp_rank=pp)) for pp in range(3)]
        assert {identity.stages for identity in identities} == {tuple(identity.rank for identity in identities)}

    @pytest.mark.parametrize(("args", "port"), [(30001, 30001), (None, 40000)])
    def test_decode_process_is_named_by_its_port(self, args, port):
        sglang = manager("decode")
        sglang.server_args.port = args
        assert identify(sglang).owner == f"decode/10.0.0.1:{port}@10.0.0.1:40000"

    @pytest.mark.parametrize(
        "others",
        [
            {"attn_tp_size": None},
            {"request_status": {1: 1}},
            {"failure_records": None},
            {"req_to_decode_prefix_len": []},
            {"disaggregation_mode": None},
        ],
    )
    def test_unexpected_attribute_is_incompatible(self, others):
        with pytest.raises(IncompatibleSGLangError):
            identify(manager(**others))
