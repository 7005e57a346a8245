# A decoder for FALCON's server, built in a folder that `ndt3 falcon submit` has made:
#
#   ndt3 falcon submit runs/falcon_h1 submission
#   docker build -t h1 submission
#   docker run --rm -v DATA:/dataset/evaluation_data -e EVALUATION_LOC=local -e PHASE=minival h1
#
# Variables and their values are those of FALCON's own template; the last line above scores the public
# files of minival, whose folder DATA holds h1/minival.
FROM python:3.11-slim-bookworm

# torch's default wheels bring CUDA 13; a host with an older driver takes another index of pytorch.org,
# such as https://download.pytorch.org/whl/cu126, and one without a GPU .../whl/cpu.
ARG TORCH_INDEX=
WORKDIR /decoder
COPY requirements.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep -m1 '^torch==' requirements.txt)" \
 && pip install --no-cache-dir -r requirements.txt
COPY . .
RUN python decode.py check .

# Where the evaluator reads and writes.
ENV EVAL_DATA_PATH=/dataset/evaluation_data \
    PREDICTION_PATH=/submission/submission.csv \
    PREDICTION_PATH_LOCAL=/tmp/submission.pkl \
    GT_PATH=/tmp/ground_truth.pkl
# remote = the server scores later; local = here and now. minival is public, test is the server's.
# BATCH_SIZE: recordings decoded together, 0 = as many as the evaluator serves.
ENV EVALUATION_LOC=remote \
    PHASE=test \
    BATCH_SIZE=0 \
    PYTHONUNBUFFERED=1
CMD ["/bin/bash", "-c", "python decode.py run . --evaluation $EVALUATION_LOC --phase $PHASE --batch-size $BATCH_SIZE"]
