"""Reads what Weights & Biases writes offline: LevelDB's log format with a protobuf a record."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER, HEAD_OF_FILE = 2**15, 7, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), HEAD_OF_FILE, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little is left of the block for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_run(folder: Path) -> tuple[set[str], dict[str, object], dict[str, dict[int, float]], set]:
    """Ids, settings, metric -> round -> value, and the names in artifacts; of all its files."""
    ids, config, metrics, attached = set(), {}, {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif record.HasField("history"):
                row = {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json)
                    for i in record.history.item
                }
                for name, value in row.items():
                    if "round" in row and isinstance(value, int | float):
                        metrics.setdefault(name, {})[row["round"]] = value
            elif record.HasField("request") and record.request.HasField("log_artifact"):
                entries = record.request.log_artifact.artifact.manifest.contents
                attached |= {entry.path for entry in entries}
            elif record.HasField("artifact"):
                attached |= {entry.path for entry in record.artifact.manifest.contents}
    return ids, config, metrics, attached
