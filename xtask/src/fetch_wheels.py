"""Downloads wheels to a folder and goes on where an earlier run was cut off.

Arguments: the folder, then NAME==VERSION=SHA256 for each wheel. pip, which this
runs with, knows index, mirror, proxy, certificates and passwords of this
machine; it finds the address, and its session fetches. Its own download starts
from zero each time.
"""

import fcntl
import hashlib
import pathlib
import sys
import time

from pip._internal.commands.download import DownloadCommand
from pip._internal.cli.cmdoptions import make_target_python
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.requests.exceptions import RequestException
from pip._vendor.urllib3.exceptions import HTTPError

# Wheels are for CPython 3.11 whatever Python is at hand: only their C++
# libraries are used.
PLATFORM = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=none"]
PLATFORM += [f"--platform=manylinux{tag}_x86_64" for tag in ("1", "2010", "2014")]
PLATFORM += [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(5, 29)]
PLATFORM += ["--no-cache-dir", "--no-deps", "--dest=.", "unused"]
ATTEMPTS = 8


def main(folder, *wanted):
    command = DownloadCommand("download", "")
    with command.main_context():
        options, _ = command.parse_args(PLATFORM)
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session, make_target_python(options))
        for number, requirement in enumerate(wanted, 1):
            requirement, sha256 = requirement.rsplit("=", 1)
            name, version = requirement.split("==")
            best = finder.find_best_candidate(name, SpecifierSet(f"=={version}")).best_candidate
            if best is None:
                sys.exit(f"the package index offers no {requirement} for this platform")
            fetch(session, best.link, pathlib.Path(folder), sha256, f"{requirement} ({number} of {len(wanted)})")


def fetch(session, link, folder, sha256, label):
    target = folder / link.filename
    if target.exists():
        return
    part = folder / (link.filename + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            go_on(session, link.url_without_fragment, part, label)
            break
        except (RequestException, HTTPError, OSError) as error:
            if attempt == ATTEMPTS:
                sys.exit(f"{label}: {error}")
            time.sleep(attempt)
    with open(part, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        part.unlink()
        sys.exit(f"{label}: what was downloaded has the SHA-256 {digest.hexdigest()}, expected {sha256}; it was removed")
    part.rename(target)


def go_on(session, url, part, label):
    with open(part, "ab") as sink:
        # A run whose parent was killed may still be at it.
        fcntl.flock(sink, fcntl.LOCK_EX)
        done = part.stat().st_size
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        response = session.get(url, headers=headers, stream=True)
        if response.status_code == 416:  # nothing is missing
            return
        response.raise_for_status()
        if response.status_code != 206:
            done = 0
            sink.truncate(0)
        total = done + int(response.headers.get("Content-Length", 0))
        start = f", from {done / 1e6:.0f} MB" if done else ""
        print(f"setup: downloading {label}, {total / 1e6:.0f} MB{start}", flush=True)
        shown = time.monotonic()
        for block in response.iter_content(1 << 20):
            sink.write(block)
            done += len(block)
            if sys.stdout.isatty() and time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                print(f"\r  {done / 1e6:.0f} MB ", end="", flush=True)
    if sys.stdout.isatty():
        print("\r" + " " * 20 + "\r", end="", flush=True)
    if total and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


main(*sys.argv[1:])
