"""The bench's numbers as tables."""

from rich.console import Console
from rich.table import Table

from dsrm_jax.types import Json


def print_report(numbers: Json, console: Console) -> None:
    """Print the numbers of `run` as a table with a few lines around it."""
    shape, budget, machine, most = (numbers[name] for name in ("shape", "budget", "machine", "most"))
    title = (
        f"{numbers['size']}: {shape['users']} users, slate {shape['slate_size']}, {shape['items']:,} items, "
        f"S = {shape['diffusion_steps']}, {shape['steps_per_update']} steps an update"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("part", no_wrap=True)
    for heading in ("ms", "limit ms", "times it", "binds", "floor ms", "steps/s", "compiling"):
        table.add_column(heading, justify="right")
    for name, part in numbers["parts"].items():
        table.add_row(
            name,
            f"{part['milliseconds']:.2f}",
            f"{part['limit']['milliseconds']:.2f}",
            f"{part['of_limit']:.1f}",
            part["limit"]["binds"],
            f"{part['floor_milliseconds']:.2f}" if part["ratio"] else "-",
            f"{part['user_steps_per_second']:,.0f}",
            f"{part['compile_seconds']:.1f} s",
        )
    console.print(table)
    how = f"extrapolated from {budget['updates_run']} updates" if budget["extrapolated"] else "all of it run"
    lines = [
        f"whole budget of {budget['steps']:,} steps: {budget['seconds']:.0f} s, {budget['compile_seconds']:.0f} s of them "
        f"compiling ({how}): {budget['user_steps_per_second']:,.0f} user-steps/s",
        f"the loop takes {numbers['parts']['loop']['of_limit']:.1f} times what the machine needs for its arithmetic, results and "
        f"random bits at their best: {most['operations'] / 1e9:.0f} GFLOP/s, {most['bytes'] / 1e9:.1f} GB/s of "
        f"memory, {most['random_bits'] / 8e9:.1f} GB/s of random bits, measured in this run",
        f"peak memory {numbers['peak_memory_gb']:.2f} GB; {machine['cores']} cores, {', '.join(machine['devices'])}, "
        f"jax {machine['jax']}; medians of {numbers['repeats']}; floor: the part's matrix products alone, "
        "in its own shapes",
    ]
    if numbers["stage_one"]:
        stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in numbers["stage_one"].items())
        lines.insert(0, f"before the loop: {stages}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_scaling(numbers: Json, console: Console) -> None:
    """Print the numbers of `scaling.run_scaling`: a table for each axis with its fit below."""
    for name, title in (("users", "users"), ("diffusion_steps", "diffusion steps")):
        found = numbers[name]
        table = Table(title=f"purification by {title}", title_justify="left")
        table.add_column(title, justify="right")
        for heading in ("ms", "floor ms", "ratio"):
            table.add_column(heading, justify="right")
        for x, seconds, floor in zip(found["x"], found["seconds"], found["floor_seconds"], strict=True):
            table.add_row(f"{x:,}", f"{1e3 * seconds:.3f}", f"{1e3 * floor:.3f}", f"{seconds / floor:.2f}")
        console.print(table)
        fit = f"{1e3 * found['intercept']:.3f} ms + {1e6 * found['slope']:.2f} us each, R2 = {found['r2']:.4f}"
        console.print(f"fit: {fit}", highlight=False, markup=False, soft_wrap=True)
    found = numbers["items"]
    table = Table(title="temporary memory of the loop by items", title_justify="left")
    for heading in ("items", "MB", "item table MB", "beyond MB"):
        table.add_column(heading, justify="right")
    columns = (found[name] for name in ("temporary_bytes", "table_bytes", "beyond_bytes"))
    for x, *sizes in zip(found["x"], *columns, strict=True):
        table.add_row(f"{x:,}", *("-" if size is None else f"{size / 1e6:.2f}" for size in sizes))
    console.print(table)
    if found["exponent"] is not None:
        console.print(
            f"fit beyond the table, from {min(found['fitted']):,} items: items to the power {found['exponent']:.2f}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
