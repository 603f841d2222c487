"""README.md of an export: what the generator is, how good, how it was trained, how to draw."""

from typing import Any

from topk_plugin.engine.checkpoint import Checkpoint
from topk_plugin.engine.export.weights import AVERAGE
from topk_plugin.engine.methods.registry import methods_on


def model_card(checkpoint: Checkpoint, facts: dict[str, Any]) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        checkpoint: what was exported.
        facts: the content of export.json.
    """
    config, generator = checkpoint.config, facts["generator"]
    name = f"{config.MODEL.backbone} on {config.DATA.name}"
    lines = [
        *("---", "library_name: topk-plugin", "pipeline_tag: unconditional-image-generation"),
        *("tags: [gan, top-k-training, image-generation]", "---", ""),
        *(f"# {name}", "", "![Images drawn by this generator, a row a class](samples.png)", ""),
        f"Images of {generator['img_size']} x {generator['img_size']} pixels"
        + (f", {generator['num_classes']} classes" if generator["num_classes"] > 1 else "")
        + f", after {checkpoint.step:,} training steps"
        + (" (moving average of the weights)." if facts["weights"] == AVERAGE else "."),
        *("", "## Draw images", "", "With torch alone, in this folder:", ""),
        *("```", "python sample.py samples.png", "```", ""),
        "`generator.pt2` is a program of torch.export: latents "
        f"[N, {generator['z_dim']}] ({_prior(generator['z_prior'])}) and labels int64 [N] to "
        "images [N, 3, S, S] in (-1, 1). It was "
        f"written by torch {facts['versions']['torch']}; an older torch may refuse it. With "
        "topk-plugin:",
        *("", "```", "topk-plugin sample -ckpt . -save grid.png", "```", ""),
        "`generator.safetensors` holds the weights under StudioGAN's names, `config.yaml` the "
        "settings they were trained with.",
        *("", "## Metrics", "", *_metrics(checkpoint, facts)),
        *("", "## Training", "", *_training(checkpoint)),
        *("", "## Before you use it", ""),
        "Fill this in: licence and origin of the training images, what the generator is for, and "
        "what it must not be used for.",
    ]
    return "\n".join(lines) + "\n"


def _prior(prior: str) -> str:
    return "standard normal" if prior == "gaussian" else "uniform in [-1, 1]"


def _metrics(checkpoint: Checkpoint, facts: dict[str, Any]) -> list[str]:
    values = facts["metrics"]
    if not values:
        return ["Not measured at this step; `topk-plugin evaluate -ckpt RUN` measures."]
    measured = checkpoint.progress.measured_with or {}
    rows = [f"| {name} | {value:.4g} |" for name, value in values.items()]
    note = (
        f"Measured with {measured.get('samples'):,} generated images and the "
        f"{measured.get('extractor')} extractor."
    )
    if measured.get("extractor") != "inception":
        note += " Not comparable with FID from Inception's features."
    if checkpoint.judge() is not None:
        note += (
            " They are of images that a second critic let pass (Self-Diagnosing GAN), which is not "
            "in this folder: images drawn here are not held to its judgement."
        )
    return ["| metric | value |", "|---|---|", *rows, "", note]


def _training(checkpoint: Checkpoint) -> list[str]:
    config = checkpoint.config
    loss, optimization = config.LOSS, config.OPTIMIZATION
    methods = ", ".join(method.name for method in methods_on(config))
    rows = [
        ("data", str(config.DATA.name)),
        ("steps, of planned", f"{checkpoint.step:,} of {optimization.total_steps:,}"),
        ("batch size", f"{optimization.batch_size}"),
        ("adversarial loss", str(loss.adv_loss)),
        ("methods", methods),
        ("seed", str(checkpoint.seed)),
        ("precision", checkpoint.precision),
    ]
    if loss.apply_topk:
        keys = ("topk_gamma", "topk_nu", "topk_mode", "topk_policy", "topk_every")
        settings = ", ".join(f"{key} {getattr(loss, key)}" for key in keys)
        rows.append(("top-k training", settings))
    else:
        rows.append(("top-k training", "off"))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
