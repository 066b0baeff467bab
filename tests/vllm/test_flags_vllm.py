"""Every flag that the launcher can write is one that the real vLLM of this version reads."""

import json
from pathlib import Path

from python_on_whales import DockerClient

from tests.integration.test_engines import VERSION

PARSER = """\
#!/opt/venv/bin/python
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

read = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[2:])
print("READ " + json.dumps({name: getattr(read, name) for name in (
    "model_tag", "served_model_name", "uds", "max_model_len", "max_num_seqs", "scheduling_policy",
    "disable_uvicorn_access_log", "tensor_parallel_size",
    "pipeline_parallel_size", "data_parallel_size", "quantization", "kv_cache_dtype",
    "gpu_memory_utilization", "max_num_batched_tokens",
)}))
"""


def test_vllm_reads_all_flags(docker: DockerClient, tmp_path: Path) -> None:
    """Its own parser, in the place of its server: several cards need no GPU to be read."""
    tmp_path.chmod(0o755)
    (tmp_path / "vllm").write_text(PARSER, encoding="utf-8")
    (tmp_path / "vllm").chmod(0o755)

    said = docker.container.run(
        f"node/engine-vllm-cpu:{VERSION}",
        remove=True,
        networks=["none"],
        volumes=[(tmp_path, "/parser", "ro")],
        tmpfs=["/run/engine:uid=10004", "/cache:exec,uid=10004"],
        envs={
            "PATH": "/parser:/opt/venv/bin:/usr/bin:/bin",
            "ENGINE_SLOTS": "6",
            "CONTEXT_TOKENS": "4096",
            "GPU_COUNT": "12",
            "GPU_COPIES": "2",
            "GPU_STAGES": "3",
            "QUANTIZATION": "fp8",
            "KV_CACHE": "fp8",
            "GPU_MEMORY": "0.85",
            "BATCH_TOKENS": "8192",
        },
    )

    line = next(line for line in str(said).splitlines() if line.startswith("READ "))
    assert json.loads(line.removeprefix("READ ")) == {
        "model_tag": "/models/SmolLM2-135M-Instruct",
        "served_model_name": ["SmolLM2-135M-Instruct"],
        "uds": "/run/engine/engine.sock",
        "max_model_len": 4096,
        "max_num_seqs": 3,
        "scheduling_policy": "priority",
        "disable_uvicorn_access_log": True,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "data_parallel_size": 2,
        "quantization": "fp8",
        "kv_cache_dtype": "fp8",
        "gpu_memory_utilization": 0.85,
        "max_num_batched_tokens": 8192,
    }
