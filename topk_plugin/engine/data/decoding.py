"""The images of class folders: decoded into memory, or left on the disk and made when needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import ClassFolders
from topk_plugin.engine.data.findings import Findings
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.memory import must_stream
from topk_plugin.engine.data.picture import UnreadableImage
from topk_plugin.engine.data.pixels import fill_rows
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.set_cache import SetCache
from topk_plugin.engine.data.sources import FileSource, FileStore
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.data.survey import look_through


@dataclass(frozen=True)
class FileSet:
    """The image files of one split, found but not read.

    Attributes:
        path: the folder or archive.
        folders: the files and their labels.
        store: reads them.
        signature: changes when a file does.
        split: the split.
        img_size: edge of the images in pixels.
        reading: the user's choices.
        name: the set's name.
        where: what to call the folder or archive in messages.
    """

    path: Path
    folders: ClassFolders
    store: FileStore
    signature: str
    split: str
    img_size: int
    reading: Reading
    name: str
    where: str

    def load(self) -> ImageSet:
        """Decode, crop and resize every file; into memory if it is large enough.

        Raises:
            UserError: files can't be decoded.
        """
        if must_stream(len(self.folders.files), self.img_size, self.reading):
            return self._leave_on_disk()
        return self._decode_once()

    def _source(self, white: int | None) -> FileSource:
        return FileSource(
            self.folders.files, self.store, self.img_size, self.reading.background, white
        )

    def _cache(self, kind: str) -> SetCache:
        return SetCache(
            kind,
            self.path,
            split=self.split,
            img_size=self.img_size,
            signature=f"{self.reading.background}:{self.signature}",
        )

    # --- in memory -------------------------------------------------------------------------

    def _decode_once(self) -> ImageSet:
        cache = self._cache("decoded")
        kept = cache.load()
        if kept is None or (kept["skipped"] and not self.reading.skip_damaged):
            images, findings = self._decode()
            labels = torch.tensor(self.folders.labels)
            if findings.damaged:
                whole = self._whole(findings)
                images, labels = images[whole], labels[whole]
            kept = {
                "images": images,
                "labels": labels,
                "skipped": len(findings.damaged),
                "notes": findings.notes(self.folders.files),
            }
            cache.store(kept)
        return self._image_set(kept["images"], kept["labels"], kept["notes"], kept["skipped"])

    def _decode(self) -> tuple[Tensor, Findings]:
        files = self.folders.files
        images = torch.empty(len(files), 3, self.img_size, self.img_size, dtype=torch.uint8)
        findings = Findings()
        source = self._source(None)

        def decode(index: int) -> np.ndarray:
            blank = np.zeros(images.shape[1:], np.uint8)
            try:
                picture = source.picture(index)
            except UnreadableImage as error:
                findings.damaged[index] = str(error)
                return blank
            findings.add(index, picture)
            return blank if picture.pixels is None else picture.pixels

        fill_rows(images, range(len(files)), decode)
        self._check(findings)
        if findings.deep:
            source = self._source(findings.white)
            fill_rows(images, findings.deep, decode)
        return images, findings

    # --- on the disk -----------------------------------------------------------------------

    def _leave_on_disk(self) -> ImageSet:
        cache = self._cache("surveys")
        labels = torch.tensor(self.folders.labels)
        kept = cache.load()
        if kept is None:
            kept = self._look_through(labels)
            cache.store(kept)
        findings = Findings()
        findings.damaged = kept["damaged"]
        self._check(findings)
        whole = self._whole(findings)
        images = StoredImages(
            self._source(kept["white"]),
            whole,
            num_workers=self.reading.workers,
            digest=kept["digest"],
        )
        return self._image_set(images, labels[whole], kept["notes"], len(findings.damaged))

    def _look_through(self, labels: Tensor) -> dict[str, Any]:
        files, workers = self.folders.files, self.reading.workers
        source = self._source(None)
        every: Sequence[int] = range(len(files))
        findings, digest = look_through(source, every, labels, num_workers=workers)
        self._check(findings)
        if findings.damaged or findings.deep:
            source = replace(source, white=findings.white)
            whole = self._whole(findings)
            _, digest = look_through(source, whole.tolist(), labels[whole], num_workers=workers)
        return {
            "damaged": findings.damaged,
            "white": findings.white,
            "digest": digest,
            "notes": findings.notes(files),
        }

    # --- both ------------------------------------------------------------------------------

    def _check(self, findings: Findings) -> None:
        findings.check(self.folders.files, self.where, skip_damaged=self.reading.skip_damaged)

    def _whole(self, findings: Findings) -> Tensor:
        """The files that are not damaged, int64; none of the classes may have lost all."""
        labels = np.asarray(self.folders.labels)
        whole = np.setdiff1d(np.arange(len(labels)), list(findings.damaged))
        for label in np.setdiff1d(labels, labels[whole]):
            raise UserError(
                f"All images of the class folder {self.folders.class_names[label]} of "
                f"{self.where} are damaged; replace them or remove the folder"
            )
        return torch.from_numpy(whole)

    def _image_set(
        self, images: Tensor | StoredImages, labels: Tensor, notes: str, skipped: int
    ) -> ImageSet:
        return ImageSet(
            images=images,
            labels=labels,
            class_names=self.folders.class_names,
            name=self.name,
            source=self.folders.describe(self.where, len(labels)) + notes,
            skipped=skipped,
            background=self.reading.background,
        )
