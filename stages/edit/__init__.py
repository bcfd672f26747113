"""`ldm edit`: images in, variations of them out: all of an image, a part of it, or by the noise that it came from."""

from .edits import run as run
