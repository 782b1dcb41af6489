"""What fine-tuning costs beyond the bare arithmetic of the encoder.

    python benchmarks/speed.py [PART]... [--data ROOT] [--clock cpu] [-s KEY=VALUE]

Parts, all by default:
    step        training steps of the real loop against forward + backward + Adam on tensors in memory
    fit         the pass that fits Gaussians against bare forward passes; Ledoit-Wolf against scikit-learn
    validation  one vicinal validation taken apart
    train       a whole `train` on ROOT taken apart
    growth      how cost grows with images, width of levels and size of images; a figure

Contestants take turns; of each round the ratio is taken, of the ratios the median. One thread by default; then
`--clock cpu` counts processor seconds, which other work on the machine disturbs least. On a quiet machine all
parts take about half an hour, most of it `train`.
"""

import argparse
import os

PARTS = ("step", "fit", "validation", "train", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", default="", help="data root (default: generated images)")
    parser.add_argument("--recipe", default="recipes/mvtec.yaml")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="in a round of the part step")
    parser.add_argument("--images", type=int, default=128, help="in a round of the part fit")
    parser.add_argument("--features", type=int, nargs=2, default=(4000, 1280), help="count and width")
    growth_of = parser.add_argument_group("part growth")
    growth_of.add_argument("--counts", type=int, nargs="+", default=(1000, 3000, 10000, 30000), help="images")
    growth_of.add_argument("--widths", type=int, nargs="+", default=(32, 64, 128, 256, 512, 1024, 1792))
    growth_of.add_argument("--sizes", type=int, nargs="+", default=(224, 288, 320, 384, 448), help="pixels")
    growth_of.add_argument("--encoder", default="tf_efficientnet_lite0", help="given images of these sizes")
    parser.add_argument("--output", default=".", help="folder for the figure")
    parser.add_argument("-s", dest="set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    options.set = [f"expert.runtime.threads={options.threads}", *options.set]
    if "step" in options.parts:
        from speed_parts.step import step

        step(options)
    if "fit" in options.parts:
        from speed_parts.fit import fit

        fit(options)
    if "validation" in options.parts:
        from speed_parts.watch import watch

        watch(options)
    if "train" in options.parts:
        from speed_parts.train import train

        train(options)
    if "growth" in options.parts:
        from speed_parts.growth import growth

        growth(options)


if __name__ == "__main__":
    main()
