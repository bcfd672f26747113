#!/bin/sh
# Fetch what the recipes imagenette-64, -64-kl, -64-var and imagenette-128 need, about 120 MB, into the working
# directory; run it again where it was interrupted. By running it you accept these terms:
#
# data/imagenette2-224                  photos of ten ImageNet classes, shorter side 160 pixels, by fast.ai; the list of
#                                       them is Apache-2.0, the photos are ImageNet's, for research
# weights/lpips-squeeze                 the perceptual loss: heads (BSD-2) and SqueezeNet's layers (BSD-2, BSD-3)
# weights/mobilenet_v2-b0353104.pth     MobileNetV2 of torchvision (BSD-3), for metrics
set -eu

photos=data/imagenette2-224
heads=PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/squeeze.pth
layers=LPIPS/77473a15f51969d567c0e03bf31c7f116a152777/project/image_likeness/models/squeeze.backbone.pth

# fetch FILE URL: a file has its name only when it is whole.
fetch() {
    if [ ! -e "$1" ]; then
        echo "fetching $1"
        mkdir -p "$(dirname "$1")"
        curl --fail --location --show-error --silent --output "$1.part" "$2"
        mv "$1.part" "$1"
    fi
}

if [ ! -e $photos ]; then
    fetch data/imagenette2-160.tgz https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz
    rm -rf data/imagenette2-160
    tar -xzf data/imagenette2-160.tgz -C data
    cat > data/imagenette2-160/classes.json <<'NAMES'
{
  "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
  "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
  "n03445777": "golf ball", "n03888257": "parachute"
}
NAMES
    mv data/imagenette2-160 $photos
    rm data/imagenette2-160.tgz
fi
fetch weights/lpips-squeeze/v0.1_squeeze.pth "https://raw.githubusercontent.com/richzhang/$heads"
fetch weights/lpips-squeeze/squeeze.backbone.pth "https://raw.githubusercontent.com/delldu/$layers"
fetch weights/mobilenet_v2-b0353104.pth https://download.pytorch.org/models/mobilenet_v2-b0353104.pth
echo "all there: make pipelines RECIPE=recipes/imagenette-64.yaml RUN=photos"
