"""Writes docs/THIRD_PARTY.md: every package of Cargo.lock with its licence. A test holds the list complete.

    python3 scripts/licences.py     # needs cargo; downloads the sources of packages that other systems need
"""

import json
import pathlib
import re
import subprocess

root = pathlib.Path(__file__).resolve().parent.parent
command = ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked"]
packages = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True).stdout)["packages"]
packages = sorted((p for p in packages if p["source"]), key=lambda p: (p["name"], p["version"]))

HEAD = """\
# Third-party packages

Every package that Cargo.lock names, under its own licence: what the program is built of on any system and with
any feature, and what its tests need. Made by `python3 scripts/licences.py`.

| package | version | licence | source |
|---|---|---|---|
"""


def licence(package):
    # A slash is an older spelling of OR.
    return re.sub(r"\s*/\s*", " OR ", package["license"] or f"see {package['license_file']}")


rows = [f"| {p['name']} | {p['version']} | {licence(p)} | {p['repository'] or ''} |\n" for p in packages]
(root / "docs" / "THIRD_PARTY.md").write_text(HEAD + "".join(rows))
print(f"{len(packages)} packages; licences: {', '.join(sorted({licence(p) for p in packages}))}")
