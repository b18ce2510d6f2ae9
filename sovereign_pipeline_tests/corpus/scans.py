"""Print invented letters on pages, spoil them as scanners do, and write PDFs without a text layer."""

import io
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import pypdfium2
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""Font that every machine with matplotlib has. It covers Latin and Arabic."""
DOTS_PER_INCH = 300
_POINTS, _LINE, _MARGIN = 11, 1.7, 1.0


def page(text: str, dots_per_inch: int = DOTS_PER_INCH, font: Path = FONT, grey: int = 0) -> Image.Image:
    """Return an A4 page in shades of grey. Lines with Arabic letters begin at the right."""
    image = Image.new("L", (round(8.27 * dots_per_inch), round(11.69 * dots_per_inch)), 255)
    draw, point = ImageDraw.Draw(image), dots_per_inch / 72
    of_size = ImageFont.truetype(str(font), round(_POINTS * point), layout_engine=ImageFont.Layout.RAQM)
    margin = round(_MARGIN * dots_per_inch)
    for number, line in enumerate(text.split("\n")):
        height = margin + round(number * _POINTS * _LINE * point)
        if re.search("[\u0620-\u064a]", line):
            right = image.width - margin
            draw.text((right, height), line, grey, of_size, "ra", direction="rtl", language="ar")
        else:
            draw.text((margin, height), line, grey, of_size)
    return image


def skewed(image: Image.Image, degrees: float = 2) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255)


def noisy(image: Image.Image, sigma: float = 40, specks: float = 0.002) -> Image.Image:
    """Add noise to each pixel, and black specks of 2 by 2 pixels."""
    noise = Image.effect_noise(image.size, sigma)
    spoilt = Image.blend(image, noise, 0.35)
    draw, chance = ImageDraw.Draw(spoilt), random.Random(1)
    for _ in range(round(image.width * image.height * specks / 4)):
        x, y = chance.randrange(image.width), chance.randrange(image.height)
        draw.rectangle((x, y, x + 1, y + 1), 0)
    return spoilt


def blurred(image: Image.Image, radius: float = 4) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def pdf(*pages: Image.Image, dots_per_inch: float = DOTS_PER_INCH, quality: int = 90) -> bytes:
    """Return a PDF of pictures, compressed as JPEG."""
    stream = io.BytesIO()
    first, *others = pages
    first.save(stream, "PDF", save_all=True, append_images=others, resolution=dots_per_inch, quality=quality)
    return stream.getvalue()


def joined(*contents: bytes) -> bytes:
    """Return a PDF with the pages of several."""
    stream = io.BytesIO()
    with pypdfium2.PdfDocument.new() as whole:
        for content in contents:
            with pypdfium2.PdfDocument(content) as part:
                whole.import_pages(part)
        whole.save(stream)
    return stream.getvalue()


Spoilt = Callable[[str, Path], bytes]
CONDITIONS: dict[str, Spoilt] = {
    "clean, 300 dpi": lambda text, font: pdf(page(text, font=font)),
    "150 dpi": lambda text, font: pdf(page(text, 150, font), dots_per_inch=150),
    "skewed by 2°": lambda text, font: pdf(skewed(page(text, font=font))),
    "noisy": lambda text, font: pdf(noisy(page(text, font=font))),
    "JPEG, quality 10": lambda text, font: pdf(page(text, 200, font), dots_per_inch=200, quality=10),
    "100 dpi": lambda text, font: pdf(page(text, 100, font), dots_per_inch=100),
    "very noisy": lambda text, font: pdf(noisy(page(text, font=font), 100, 0.02)),
    "blurred": lambda text, font: pdf(blurred(page(text, font=font), 6)),
    "skewed by 10°": lambda text, font: pdf(skewed(page(text, font=font), 10)),
    "upside down": lambda text, font: pdf(page(text, font=font).rotate(180)),
}
"""How a page was scanned -> a letter as a PDF."""


def words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in re.findall(r"\w+", text)]
