#!/usr/bin/env python3
"""A trainer whose every move is written in its job: {"acts": [[name, ...], ...]}.

It speaks the frames of a real one and can do what a real one must not.
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["attempt"])
parser.add_argument("spec", type=pathlib.Path)
for option in ["--out", "--data-root", "--resume", "--supernet", "--cache-dir"]:
    parser.add_argument(option, type=pathlib.Path)
for option in ["--device", "--threads", "--loader-threads", "--cache-limit-gib", "--mtbf-s"]:
    parser.add_argument(option)
for option in ["--world-size", "--first-rank", "--rank-count", "--own-address", "--meeting"]:
    parser.add_argument(option)
arguments = parser.parse_args()

stop = threading.Event()
deaf = threading.Event()


def obey():
    """Stop on any frame, end at the end of input, as a real trainer does."""
    while data := os.read(0, 4096):
        if data and not deaf.is_set():
            stop.set()
    if not deaf.is_set():
        os._exit(3)


threading.Thread(target=obey, daemon=True).start()


def send(event):
    body = json.dumps(event).encode()
    os.write(1, struct.pack("<I", len(body)) + body)


def log(text):
    print(text, file=sys.stderr, flush=True)


class Trainer:
    def __init__(self):
        self.step = 0
        if arguments.resume:
            self.step = json.loads((arguments.resume / "manifest.json").read_text())["step"]
        if arguments.supernet:
            log((arguments.supernet / "weights.safetensors").read_text())

    def ready(self, total=100, protocol=4):
        send({"phase": "loading_data"})
        send({"phase": "building"})
        send({"ready": {
            "protocol": protocol, "device": "a scripted device", "libtorch": "0", "param_count": 7,
            "steps_total": total, "epochs_total": 1, "resumed_step": self.step,
        }})
        send({"phase": "training"})

    def train(self, steps, pause=0.0):
        for _ in range(steps):
            self.step += 1
            send({"step": {
                "step": self.step, "loss": 1.0 / self.step, "learning_rate": 0.1,
                "samples_per_s": 4.0, "data_wait_share": 0.0,
            }})
            time.sleep(pause)
            if stop.is_set():
                self.save()
                sys.exit(0)

    def validate(self):
        send({"phase": "validating"})
        quality = {"segmentation": {"mean_dice": 0.75, "dice_per_class": [0.7, 0.8], "case_count": 2}}
        send({"validation": {"step": self.step, "epoch": 1, "quality": quality}})

    def save(self):
        send({"phase": "saving_checkpoint"})
        folder = arguments.out / "checkpoints" / f"step-{self.step:09}"
        folder.mkdir(parents=True)
        weights = f"weights of step {self.step}".encode()
        (folder / "weights.safetensors").write_bytes(weights)
        listed = {"name": "weights.safetensors", "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        manifest = json.dumps({"format": 1, "step": self.step, "files": [listed]}).encode()
        (folder / "manifest.json").write_bytes(manifest)
        send({"checkpoint": {
            "step": self.step, "directory": str(folder),
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(), "bytes": len(weights) + len(manifest),
            "stall_s": 0.01, "save_s": 0.5,
        }})
        send({"phase": "training"})

    def complete(self):
        quality = {"segmentation": {"mean_dice": 0.75, "dice_per_class": [0.7, 0.8], "case_count": 2}}
        send({"completed": {
            "step": self.step, "quality": quality, "param_count": 7, "mac_count": 9, "latency_ms": 1.5,
            "peak_memory_mib": 10.0, "train_duration_s": 2.0,
        }})

    def meets(self, port):
        """Where rank 0 waits for the ranks of other machines."""
        send({"meets": {"port": port}})

    def is_among(self, world_size, first_rank, own_address, meeting):
        """Ends badly unless it was started with these."""
        given = [arguments.world_size, arguments.first_rank, arguments.own_address, arguments.meeting]
        if given != [world_size, first_rank, own_address, meeting]:
            log(f"started with {given}")
            sys.exit(5)

    def until_told(self):
        """Works, as far as it goes, until it shall stop."""
        stop.wait()

    def log(self, text):
        log(text)

    def fail(self, failure_class, message):
        send({"failed": {"class": failure_class, "message": message}})
        sys.exit(1)

    def hang(self):
        time.sleep(600)

    def leak(self):
        """Sixteen MiB more with every step, but never the whole machine."""
        taken = []
        for _ in range(128):
            taken.append(b"x" * (16 << 20))
            self.train(1, 0.01)
        time.sleep(600)

    def leak_elsewhere(self):
        """400 MiB in a process of this one's, as a rank takes them."""
        subprocess.Popen(
            [sys.executable, "-c", "import time; taken = b'x' * (400 << 20); time.sleep(600)"],
            stdin=subprocess.DEVNULL,
        )
        time.sleep(600)

    def deaf(self):
        deaf.set()

    def child(self):
        """A process of its own session that would outlive this one."""
        subprocess.Popen(["setsid", "sleep", "600"], stdin=subprocess.DEVNULL)

    def garbage(self):
        os.write(1, struct.pack("<I", 9) + b"{not json")
        time.sleep(600)

    def oversized(self):
        os.write(1, b"\xff\xff\xff\xff")
        time.sleep(600)

    def exit(self, code):
        os._exit(code)

    def signal(self, number):
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(600)


trainer = Trainer()
for name, *values in json.loads(arguments.spec.read_text())["acts"]:
    getattr(trainer, name)(*values)
