"""What a policy costs as it grows: loading it, a change, memory, and a decision.

For each number of subjects a policy of that many SPIFFE IDs, a hundred to a group, is
written in parts (a hundred, or one to a group), read, compiled and loaded into one
instance, each in a process of its own. Then one part changes and the policy is read
again. Memory is what the process has more than before: at most while loading, and with
the policy loaded and its parts kept for the next reading.

A decision is one evaluation by the engine, from the input's JSON to the verdict; it is
asked of subjects all over the policy, in turn with those of the smallest policy, so
that what the machine does meanwhile hits both.

The same with a hundred subjects whose one role names so many models; then the decision
is about models all over it.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyReader, load_policy, no_collection
from authz_server.policy.engine import Engine

GROUP = 100
PARTS = 100
HEAD = "apiVersion: authz.edge/v1\nkind: AccessPolicy\nmetadata: {name: big}\nspec:\n"
COMMON = """\
  trustDomain: factory.example
  upstreams: {triton: {kind: triton}}
"""


@dataclass
class Row:
    """One size of policy."""

    subjects: int
    models: int
    megabytes: float
    read_s: float
    compile_s: float
    load_s: float
    again_s: float
    most_mb: float
    memory_mb: float
    decision_us: list[float]


def write_policy(folder: Path, subjects: int, models: int = 1) -> float:
    """Write the parts of a policy and return how many megabytes they have."""
    names = ", ".join(map(model, range(models)))
    role = f"  roles: {{use: [{{actions: [inference], models: [{names}]}}]}}\n"
    (folder / "common.yaml").write_text(HEAD + COMMON + role)
    groups = subjects // GROUP
    size = -(-groups // PARTS)
    for part in range(0, groups, size):
        numbers = range(part, min(part + size, groups))
        lines = [HEAD, "  groups:\n"]
        for number in numbers:
            lines.append(f"    line-{number}:\n      spiffe:\n")
            lines += [
                f"        - spiffe://{subject(number * GROUP + index)}\n"
                for index in range(GROUP)
            ]
        lines.append("  grants:\n")
        lines += [
            f"    - {{role: use, to: [line-{number}], on: [triton]}}\n"
            for number in numbers
        ]
        (folder / f"part-{part}.yaml").write_text("".join(lines))
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def subject(number: int) -> str:
    """Return the SPIFFE ID of a subject, without its scheme."""
    return f"factory.example/ns/line-{number // GROUP}/sa/camera-{number % GROUP}"


def model(number: int) -> str:
    """Return the name of a model."""
    return f"model-{number}" if number else "defect-detection"


def question(number: int, model_number: int = 0) -> bytes:
    """Return the input for one subject's call of one model."""
    _, *path = subject(number).split("/")
    return json.dumps(
        {
            "principal": {
                "id": f"spiffe://{subject(number)}",
                "trust_domain": "factory.example",
                "path": path,
            },
            "user": None,
            "operation": {
                "action": "inference",
                "scope": "model",
                "model": model(model_number),
                "version": "1",
                "adapter": "",
                "upstream": "triton",
                "dataset": "",
            },
            "http": {"method": "POST", "path": "/", "host": "", "headers": {}},
            "time": {"open": []},
        }
    ).encode()


def memory_mb(key: str) -> float:
    """Return what this process has in use (VmRSS), or had at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{key}:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no {key} in /proc/self/status")
    return int(found[1]) * 1024 / 1e6


def measure(subjects: int, models: int, decisions: int) -> Row:
    """Return what such a policy costs. Runs in a process of its own."""
    wasm = shipped_wasm()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = loaded(folder / "small", GROUP, wasm)
        large = folder / "large"
        large.mkdir()
        megabytes = write_policy(large, subjects, models)
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here.
        reader = PolicyReader()
        begin = time.perf_counter()
        with no_collection():  # as the server does
            policy = reader.load(large)
            read = time.perf_counter()
            data = compile_policy(policy).data
            compiled = time.perf_counter()
            engine = Engine(wasm, data, timeout_s=30.0, instances=1)
            end = time.perf_counter()
        memory = memory_mb("VmRSS") - before
        most = memory_mb("VmHWM") - before
        with (large / "part-0.yaml").open("a") as file:
            file.write("    - {role: use, to: [line-0], on: [triton]}\n")
        start = time.perf_counter()
        changed = reader.load(large)
        again = time.perf_counter() - start
        if len(changed.grants) != len(policy.grants) + 1:
            raise RuntimeError("the change was not seen")
    times = []
    for count in range(decisions):
        for which, callers, names in ((small, GROUP, 1), (engine, subjects, models)):
            asked = question(count * 7919 % callers, count * 7919 % names)
            start = time.perf_counter()
            verdict = which.evaluate(asked)
            taken = time.perf_counter() - start
            if not verdict.allow:
                raise RuntimeError(f"subject {count * 7919 % callers} was denied")
            times.append(taken * 1e6)
    return Row(
        subjects,
        models,
        megabytes,
        read - begin,
        compiled - read,
        end - compiled,
        again,
        most,
        memory,
        times,
    )


def loaded(folder: Path, subjects: int, wasm: bytes) -> Engine:
    """Return an engine with a policy of `subjects`."""
    folder.mkdir()
    write_policy(folder, subjects)
    data = compile_policy(load_policy(folder)).data
    return Engine(wasm, data, timeout_s=30.0, instances=1)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which this share of `values` is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, nargs="*", default=[])
    parser.add_argument("--models", type=int, nargs="*", default=[])
    parser.add_argument("--decisions", type=int, default=5000)
    args = parser.parse_args()
    if not args.subjects and not args.models:
        args.subjects, args.models = [100, 1000, 10**4, 10**5, 10**6], [10, 1000, 10**5]
    print(
        f"{'subjects':>9}{'models':>9}{'file MB':>9}{'read s':>9}{'compile':>9}"
        f"{'load':>8}{'again':>8}{'max MB':>8}{'MB':>8}{'p50 us':>9}{'p99':>8}"
        f"{'p99.9':>8}{'x of 100':>10}"
    )
    spawn = multiprocessing.get_context("spawn")
    sizes = [(subjects, 1) for subjects in args.subjects]
    sizes += [(GROUP, models) for models in args.models]
    for subjects, models in sizes:
        with spawn.Pool(1) as pool:
            row = pool.apply(measure, (subjects, models, args.decisions))
        small, large = row.decision_us[::2], row.decision_us[1::2]
        print(
            f"{row.subjects:>9}{row.models:>9}{row.megabytes:>9.1f}{row.read_s:>9.2f}"
            f"{row.compile_s:>9.2f}{row.load_s:>8.2f}{row.again_s:>8.3f}"
            f"{row.most_mb:>8.0f}{row.memory_mb:>8.0f}"
            f"{quantile(large, 0.5):>9.1f}{quantile(large, 0.99):>8.1f}"
            f"{quantile(large, 0.999):>8.1f}"
            f"{quantile(large, 0.5) / quantile(small, 0.5):>10.2f}"
        )


if __name__ == "__main__":
    main()
