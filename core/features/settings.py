"""The feature extractors by name. Imports no torch."""

from typing import Literal

ExtractorName = Literal["classifier", "mobilenet-v2", "inception", "lenet", "transformers"]
EXTRACTOR_HELP = "Feature extractor; auto takes the run's classifier. Only inception gives a FID."
