"""What benchmarks/ops/gpu_check.py found, as lines and as Markdown."""

from typing import Any


def line_of(row: dict[str, Any]) -> str:
    name = " ".join(filter(None, (row["op"], row["variant"], row["dtype"], row["layout"])))
    name += " " + "x".join(map(str, row["size"]))
    if "raised" in row:
        return f"FAILED  {name}: {row['raised']}"
    verdict = "ok     " if row["passed"] else "FAILED "
    line = (
        f"{verdict} {name} [{row['implementation']}]: error {row['result_error']:.1e} of "
        f"{row['result_allowed']:.1e}, gradients {row['gradient_error']:.1e} of "
        f"{row['gradient_allowed']:.1e}"
    )
    if "milliseconds" in row:
        line += f"; {row['milliseconds']['op']['forward']:.3g} ms, {_ratios(row, 'forward')}"
        line += f"; with backward {_ratios(row, 'both')}"
        line += f"; {row['share_of_roofline']:.0%} of the roofline"
    return line


def _ratios(row: dict[str, Any], part: str) -> str:
    times = row["milliseconds"]
    words = [
        f"{times[name][part] / times['op'][part]:.2f}x {word}"
        for name, word in (("reference", "the reference"), ("compiled", "compiled"))
        if name in times
    ]
    return ", ".join(words)


def summary(result: dict[str, Any]) -> str:
    """One line: how many comparisons passed, and the limits of the machine."""
    passed = sum(row["passed"] for row in result["rows"])
    line = f"{passed} of {len(result['rows'])} comparisons passed on {result['device']}"
    for dtype, limits in result["limits"].items():
        line += (
            f"; {dtype}: copies {limits['bytes_per_second'] / 1e9:.0f} GB/s, matrix products "
            f"{limits['operations_per_second'] / 1e12:.3g} TFLOP/s"
        )
    return line


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Ops on a GPU",
        "",
        f"`{result['command']}` on {result['device']}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + f". {summary(result)}.",
        "",
        result["ops"],
        "",
        "Errors are relative to the reference in float64. Times are of the forward pass, and of "
        "forward and backward together; a number over 1x says that the op is faster. The "
        "roofline's share is that of the forward pass. Sizes are batch, channels and side.",
        "",
        "| op | dtype | layout | size | implementation | passed | error | of gradients "
        "| forward, ms | over reference | over compiled "
        "| both, ms | over reference | over compiled | roofline |",
        "|---|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        cells = [
            f"{row['op']} {row['variant']}".strip(),
            row["dtype"],
            row["layout"],
            "x".join(map(str, row["size"])),
            row["implementation"],
            "yes" if row["passed"] else f"NO {row.get('raised', '')}".strip().replace("|", "/"),
            *(f"{row[k]:.1e}" if k in row else "" for k in ("result_error", "gradient_error")),
            *_times(row, "forward"),
            *_times(row, "both"),
            f"{row['share_of_roofline']:.0%}" if "share_of_roofline" in row else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _times(row: dict[str, Any], part: str) -> list[str]:
    times = row.get("milliseconds")
    if times is None:
        return ["", "", ""]
    ours = times["op"][part]
    ratios = [
        f"{times[name][part] / ours:.2f}x" if name in times else ""
        for name in ("reference", "compiled")
    ]
    return [f"{ours:.3g}", *ratios]
