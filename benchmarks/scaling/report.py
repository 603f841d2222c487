"""The page of a scaling measurement."""

from typing import Any

from benchmarks.scaling.assumptions import GPU, LEAST_A_GPU, NETWORK


def report(result: dict[str, Any]) -> str:
    hardware = result["environment"]
    lines = [
        "# An iteration in several processes",
        "",
        f"`{result['command']}`; torch {hardware['torch']}, {hardware['cpu']}. Gloo, fp32, a "
        f"thread a process; CIFAR-10's BigGAN-TopK with {result['channels']} channels, random "
        "images. Milliseconds; the gather is that of one selection over all processes, the "
        "all-reduce that of one gradient of each network, the loader that of an iteration's real "
        "images.",
        "",
        "| processes | batch | an iteration | all-reduce | gather | its share | loader | sent by a "
        "process for gradients | for the gather |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        share = row["gather"] / row["iteration"]
        lines.append(
            f"| {row['processes']} | {row['batch']} | {1e3 * row['iteration']:.0f} "
            f"| {1e3 * row['all_reduce']:.1f} | {1e3 * row['gather']:.2f} | {share:.2%} "
            f"| {1e3 * row['loader']:.1f} | {row['sent_gradients'] / 2**20:.1f} MiB "
            f"| {row['sent_scores']:.0f} B |"
        )
    link = result["fitted"]["link"]
    lines += [
        "",
        "## The model's link, fitted to these",
        "",
        f"Latency {1e6 * link['latency']:.0f} microseconds a message, bandwidth "
        f"{link['bandwidth'] / 1e9:.2f} GB/s (between processes of one machine, copies included).",
        "",
        "| processes | batch | all-reduce: model, measured | gather: model, measured |",
        "|---:|---:|---:|---:|",
    ]
    measured = {(row["processes"], row["batch"]): row for row in result["rows"]}
    for row in result["fitted"]["predictions"]:
        own = measured[row["processes"], row["batch"]]
        lines.append(
            f"| {row['processes']} | {row['batch']} "
            f"| {1e3 * row['all_reduce']:.1f}, {1e3 * own['all_reduce']:.1f} "
            f"| {1e3 * row['gather']:.2f}, {1e3 * own['gather']:.2f} |"
        )
    lines += [
        "",
        "## On paper: many GPUs",
        "",
        f"Assumed, not measured: {GPU.rate / 1e12:.0f} Tflop/s reached, {1e6 * GPU.launch:.0f} "
        f"microseconds a launch, {1e6 * NETWORK.latency:.0f} microseconds a message, "
        f"{NETWORK.bandwidth / 1e9:.0f} GB/s; rings, nothing overlapped. Counted: operations, "
        f"bytes. The batch is the config's, or {LEAST_A_GPU} a GPU where that is more.",
    ]
    for part in result["gpus"]:
        work = part["work"]
        lines += [
            "",
            f"### {part['config']}",
            "",
            f"{work['operations'] / 1e9:.1f} Gflop a sample and iteration; gradients of "
            f"{work['critic_bytes'] / 2**20:.0f} MiB (critic) and "
            f"{work['generator_bytes'] / 2**20:.0f} MiB (generator), {work['critic_updates']} and "
            f"1 times an iteration; {work['selections']} selections.",
            "",
            "| GPUs | batch | compute | gradients | gather | its share |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['gpus']:,} | {row['batch']:,} | {1e3 * row['compute']:.1f} ms "
            f"| {1e3 * row['gradients']:.1f} ms | {1e3 * row['gather']:.3f} ms "
            f"| {row['share']:.2%} |"
            for row in part["rows"]
        ]
        reached = part["gather_reaches_1_percent_at"]
        lines += [
            "",
            "With the config's own batch the gather reaches 1 % of an iteration at "
            + (f"{reached:,} GPUs." if reached else "no number of GPUs up to a million."),
        ]
    return "\n".join(lines) + "\n"
