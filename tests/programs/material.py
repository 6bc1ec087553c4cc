# SPDX-License-Identifier: Apache-2.0
"""Makes what the programs need: a model of a few thousand weights, data, small scripts. Run in the environment `main`.

Usage: python material.py FOLDER. Imports nothing of this project.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = {
    "ddp.py": """
        import os, time, torch, torch.distributed as dist
        dist.init_process_group("gloo", init_method="env://") if "RANK" in os.environ else None
        model = torch.nn.Linear(8, 8)
        end = time.time() + 120
        while time.time() < end:
            model(torch.ones(2, 8)).sum().backward()
            dist.all_reduce(model.weight.grad) if dist.is_initialized() else None
            time.sleep(0.2)
        """,
    "fabric_job.py": """
        import time
        from lightning.fabric import Fabric
        fabric = Fabric()
        fabric.launch()
        time.sleep(120)
        """,
    "ray_train_job.py": """
        import time, ray
        from ray.train.torch import TorchTrainer
        from ray.train import ScalingConfig
        ray.init(num_cpus=4, include_dashboard=False)
        TorchTrainer(lambda: time.sleep(120), scaling_config=ScalingConfig(num_workers=2)).fit()
        """,
    "solver.py": "import time, torch; x = torch.ones(9); time.sleep(120)",
    "train_jax.py": """
        import time, jax
        step = jax.jit(lambda w: w - 0.1 * w)
        w = jax.numpy.ones(8)
        for _ in range(600):
            w = step(w); time.sleep(0.2)
        """,
    "ray_serve_app.py": """
        from ray import serve
        @serve.deployment
        class Tiny:
            async def __call__(self, request):
                return "tiny"
        app = Tiny.bind()
        """,
    "bento_service.py": """
        import bentoml
        @bentoml.service(workers=2)
        class Tiny:
            @bentoml.api
            def run(self, text: str) -> str:
                return text
        """,
    "lit_api.py": """
        import litserve as ls
        class Tiny(ls.LitAPI):
            def setup(self, device):
                import torch
                self.model = torch.nn.Linear(1, 1)
            def decode_request(self, request):
                return request["x"]
            def predict(self, x):
                return x
            def encode_response(self, y):
                return {"y": y}
        if __name__ == "__main__":
            ls.LitServer(Tiny(), accelerator="cpu").run(port=18105)
        """,
    "web.py": """
        async def app(scope, receive, send):
            import torch
        """,
    "marimo_app.py": """
        import marimo
        app = marimo.App()
        @app.cell
        def _():
            import time
            time.sleep(1)
            return
        if __name__ == "__main__":
            app.run()
        """,
    "mlserver/tiny_runtime.py": """
        from mlserver import MLModel
        class Tiny(MLModel):
            async def load(self):
                return True
        """,
    "handler.py": """
        from ts.torch_handler.base_handler import BaseHandler
        class Tiny(BaseHandler):
            def initialize(self, context):
                self.initialized = True
            def handle(self, data, context):
                return ["tiny"] * len(data)
        """,
    "in.lj": """
        units lj
        lattice fcc 0.8442
        region box block 0 4 0 4 0 4
        create_box 1 box
        create_atoms 1 box
        mass 1 1.0
        velocity all create 3.0 87287
        pair_style lj/cut 2.5
        pair_coeff 1 1 1.0 1.0 2.5
        fix 1 all nve
        run 5000000
        """,
    "ts.properties": """
        inference_address=http://127.0.0.1:18110
        management_address=http://127.0.0.1:18111
        metrics_address=http://127.0.0.1:18112
        default_workers_per_model=1
        """,
    "tasks/tiny.yaml": """
        task: tiny
        dataset_path: json
        dataset_kwargs: {data_files: {test: FOLDER/data/train.jsonl}}
        test_split: test
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{text}}"
        metric_list: [{metric: word_perplexity}]
        """,
    "llamafactory.yaml": """
        model_name_or_path: FOLDER/model
        stage: pt
        do_train: true
        finetuning_type: full
        dataset_dir: FOLDER/lf
        dataset: tiny
        template: default
        cutoff_len: 16
        output_dir: FOLDER/out-lf
        overwrite_output_dir: true
        max_steps: 100000
        use_cpu: true
        report_to: none
        """,
    "yolo/data.yaml": """
        path: FOLDER/yolo
        train: images
        val: images
        names: {0: thing}
        """,
}


def make(folder: Path) -> None:
    """Fill the folder."""
    for name, text in SCRIPTS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        body = "\n".join(line[indent:] for line in lines) + "\n"
        file.write_text(body.replace("FOLDER", str(folder)), encoding="utf-8")
    rows = [json.dumps({"text": f"one two three four {number % 7}"}) for number in range(20_000)]
    for name in ("data/train.jsonl", "lf/tiny.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(rows), encoding="utf-8")
    columns = {"tiny": {"file_name": "tiny.jsonl", "columns": {"prompt": "text"}}}
    (folder / "lf/dataset_info.json").write_text(json.dumps(columns), encoding="utf-8")
    settings = {"name": "tiny", "implementation": "tiny_runtime.Tiny"}
    (folder / "mlserver/model-settings.json").write_text(json.dumps(settings), encoding="utf-8")
    server = {"http_port": 18_121, "grpc_port": 18_122, "metrics_port": 18_123}
    (folder / "mlserver/settings.json").write_text(json.dumps(server), encoding="utf-8")
    cell = {"cell_type": "code", "source": "import time\ntime.sleep(60)", "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [cell | {"execution_count": None, "id": "one"}], "metadata": kernel, "nbformat": 4}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook | {"nbformat_minor": 5}), encoding="utf-8")
    _make_model(folder / "model")
    _make_images(folder / "yolo")
    (folder / "store").mkdir(exist_ok=True)
    archive = ["--model-name", "tiny", "--version", "1", "--handler", str(folder / "handler.py")]
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    store = ["--export-path", str(folder / "store"), "--force"]
    subprocess.run([str(archiver), *archive, *store], check=True)


def _make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: PLC0415

    words = ["<pad>", "<s>", "</s>", "<unk>", "one", "two", "three", "four", *map(str, range(10))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = GPT2Config(vocab_size=len(words), n_positions=64, n_embd=8, n_layer=1, n_head=1, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)


def _make_images(folder: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(8):
        Image.new("RGB", (64, 64), (number * 30, 0, 0)).save(folder / f"images/{number}.jpg")
        (folder / f"labels/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
