"""Reference and features of a comparison. Imports no torch."""

from typing import Literal

from ..features.settings import EXTRACTOR_HELP, ExtractorName
from ..settings.fields import Count, Location, Place, Stage, option


class Comparison(Stage):
    """A reference, and the features in which samples are compared with it."""

    reference: Place | None = option(
        None,
        "Data source, folder or saved statistics; by default training images, for reconstructions validation ones.",
        "--reference",
        identity="contents",
    )
    features: Literal["auto", ExtractorName] = option("auto", EXTRACTOR_HELP, "--features")
    weights: Location | None = option(
        None, "File or folder with the extractor's weights.", "--weights", identity="contents"
    )
    download: bool = option(False, "Allow the download of Inception's weights.", "--download")
    limit: Count = option(0, "Images at most on either side, or latents; 0 for no limit.", "--limit")
    batch_size: int = option(64, "Images at once.", "--batch-size", ge=1, identity=False)
