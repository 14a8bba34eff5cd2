#!/usr/bin/env bash
# The main job on the drawn sample images, end to end. `make demo` runs it; it can be run again: nothing is deleted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export LEUK_WORKSPACE=leuk-demo

step() { # step WHAT COMMAND...
  printf '\n# %s\n$ %s\n' "$1" "${*:2}"
  "${@:2}"
}

cat <<'TEXT'
This is leuk on sample_images, which are drawn by a program, not photographed: the figures below
show that the tool works, and nothing about blood. For research use only, not a medical device.
The workspace is ./leuk-demo (LEUK_WORKSPACE=leuk-demo).
TEXT

step "1 of 8: open every image, keep each drawn patient's images together, deal the patients into 3 folds" \
  leuk prepare sample_images --task five-class --folds 3

step "2 of 8: train feature selection, hidden layer and dropout (SENet-D's recipe) on a small backbone" \
  leuk train --backbone efficientnet-lite0 --variant dropout

step "3 of 8: keep the feature vector of every image as a table" \
  leuk extract-features --backbone efficientnet-lite0 --format csv --output leuk-demo/features.csv

step "4 of 8: fit a support vector machine on the same features" \
  leuk fit-svm --backbone efficientnet-lite0

step "5 of 8: judge the run that is best on validation, by out-of-fold predictions" \
  leuk evaluate best

step "6 of 8: compare two variants on the same images, every choice made inside training" \
  leuk compare --backbones efficientnet-lite0 --variants base,svm --repeats 1

step "7 of 8: classify a larger field of an ALL patient in no folder, and a folder of a healthy one that was trained on" \
  leuk classify sample_images/slide.png sample_images/HTL/htl-patient-01

step "8 of 8: find the white cells of that field, without any training" \
  leuk cells sample_images/slide.png --overlays leuk-demo/cells

# The newest report, whichever run was best.
report=$(ls -td leuk-demo/reports/*-test | head -n 1)
cat <<TEXT

Done.
  report:            $report/report.html (open it in a browser; report.md and predictions.csv beside it)
  the data's audit:  leuk-demo/manifest/audit.html
  feature vectors:   leuk-demo/features.csv
  white cells:       leuk-demo/cells
Try next (put .venv/bin on your PATH first: export PATH="\$PWD/.venv/bin:\$PATH"):
  your own images:   leuk prepare MY_IMAGES --task five-class    (one folder a class, in it one a patient)
  the paper's model: leuk train --backbone senet --variant dropout    (fetches senet's weights, or --weights FILE)
  what there is:     leuk runs --workspace leuk-demo
  the tutorial:      docs/tutorial.md
TEXT
