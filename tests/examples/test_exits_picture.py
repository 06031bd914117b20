"""Tests for the picture of exits: the published file, and what a picture shows."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np

from bench.publication import ROOT
from examples import exits_picture, fashion_mnist_500
from examples.answers import Answers, ask
from serving.client import Client
from serving.repository.repository import PublishedVersion

MOST_BYTES = 150_000
IMAGES = fashion_mnist_500.load()


def texts(svg: str) -> list[str]:
    elements = ElementTree.fromstring(svg).iter()  # noqa: S314  # our own file
    return [element.text or "" for element in elements if element.tag.endswith("text")]


def answers(released: PublishedVersion) -> Answers:
    """Return answers with five images at exit 0 and the others at the final exit; one is wrong."""
    count, final = len(IMAGES.truth_N), len(released.manifest.stages) - 1
    label_N = IMAGES.truth_N.copy()
    label_N[0] = (label_N[0] + 1) % len(released.manifest.labels)
    return Answers(label_N, np.where(np.arange(count) < 5, 0, final), np.ones(count), seconds=1.0)


def test_the_published_picture_is_what_its_command_draws(released: PublishedVersion, client: Client) -> None:
    manifest, published = released.manifest, (ROOT / exits_picture.FILE).read_text()
    point = manifest.default_operating_point
    given = ask(client, manifest, IMAGES.images_NCHW, point)

    assert published == exits_picture.draw(manifest, IMAGES, point, given)
    assert len(published) < MOST_BYTES


def test_each_exit_has_its_share_its_cost_and_its_accuracy(released: PublishedVersion) -> None:
    cost = released.manifest.multiply_adds[0] / released.manifest.multiply_adds[-1]

    shown = [
        text.replace("\N{NO-BREAK SPACE}", " ")
        for text in texts(exits_picture.draw(released.manifest, IMAGES, "balanced", answers(released)))
    ]

    first = shown.index("Exit 0")
    assert shown[first + 1 : first + 4] == ["1 % of the images", f"cost {100 * cost:.0f} %", "80 % right"]
    second = shown.index("Exit 1")
    assert shown[second + 1] == "0 % of the images"
    final = shown.index("Final exit")
    assert shown[final + 1 : final + 4] == ["99 % of the images", "cost 100 %", "100 % right"]


def test_a_wrong_answer_is_framed_and_followed_by_the_true_class(released: PublishedVersion) -> None:
    given = answers(released)

    svg = exits_picture.draw(released.manifest, IMAGES, "balanced", given)

    assert svg.count('class="frame"') == 1
    (wrong,) = re.findall(
        r'class="middle wrong"[^>]*>([^<]+)</text>\n<text class="middle muted"[^>]*>([^<]+)<', svg
    )
    labels = released.manifest.labels
    assert wrong == (labels[given.label_N[0]], labels[IMAGES.truth_N[0]])


def test_names_are_escaped(released: PublishedVersion) -> None:
    labels = [f"<{label}&" for label in released.manifest.labels]
    manifest = released.manifest.model_copy(update={"labels": labels})

    svg = exits_picture.draw(manifest, IMAGES, "balanced", answers(released))

    assert labels[IMAGES.truth_N[1]] in texts(svg)


def test_the_shapes_of_an_image_are_its_pixels(released: PublishedVersion) -> None:
    """Fill the shapes of one image again: each pixel has the shade of its grey level."""
    images_NCHW = np.array([[[[0, 255, 255], [51, 0, 255], [130, 0, 0]]]], dtype=np.uint8)
    images = replace(IMAGES, images_NCHW=images_NCHW, truth_N=np.array([0]))
    given = Answers(np.array([0]), np.array([0]), np.ones(1), seconds=1.0)

    svg = exits_picture.draw(released.manifest, images, "balanced", given)

    shade_HW = np.zeros((3, 3), np.int64)
    for shade, path in re.findall(r'class="shade-(\d)" d="([^"]+)"', svg):
        x = y = 0
        for across, down, length in re.findall(r"m(-?\d+) ?(-?\d+)h(\d+)", path):
            x, y = x + int(across), y + int(down)
            shade_HW[y, x : x + int(length)] = int(shade)
            x += int(length)
    assert shade_HW.tolist() == [[0, 9, 9], [2, 0, 9], [5, 0, 0]]
