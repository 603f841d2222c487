"""Draws images with torch alone: python sample.py [OUT.png [IMAGES_A_ROW [SEED]]]."""

import json
import struct
import sys
import zlib
from pathlib import Path

import torch

folder, defaults = Path(__file__).parent, ["samples.png", "10", "0"]
out, columns, seed = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))["generator"]
generator = torch.export.load(folder / "generator.pt2").module()
labels = torch.tensor(facts["rows"]).repeat_interleave(int(columns))  # a row a class
draw = torch.randn if facts["z_prior"] == "gaussian" else torch.rand
z = draw(len(labels), facts["z_dim"], generator=torch.Generator().manual_seed(int(seed)))
z = z if facts["z_prior"] == "gaussian" else z * 2 - 1  # uniform in [-1, 1]
with torch.no_grad():  # images are [N, 3, S, S] in (-1, 1)
    images = torch.cat([generator(*part) for part in zip(z.split(64), labels.split(64))])  # noqa: B905
pixels = images.add(1).mul(127.5).add(0.5).clamp(0, 255).to(torch.uint8)
lines = pixels.unflatten(0, (-1, int(columns))).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1)
size = struct.pack(">2I5B", lines.shape[1] // 3, lines.shape[0], 8, 2, 0, 0, 0)  # 8 bits, RGB
data = zlib.compress(bytes(torch.nn.functional.pad(lines, (1, 0)).flatten().tolist()))
chunks = [name + data for name, data in ((b"IHDR", size), (b"IDAT", data), (b"IEND", b""))]
png = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
Path(out).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
