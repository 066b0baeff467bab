"""Turns a GGUF file into a directory that vLLM can serve; run when the vllm-cpu image is built.

python convert.py MODEL.gguf DIRECTORY
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(gguf: Path, directory: Path) -> None:
    # Untyped: neither package is installed where the types are checked.
    transformers: Any = import_module("transformers")
    torch: Any = import_module("torch")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **source,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # The weights are plain now; left in, this entry would make vLLM look for quantised ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
