#!/bin/sh
# The four stages on scikit-learn's digits, for `make demo`: sh demo.sh LASS, with the path of the command `lass`.
# A finished stage is not repeated, and an unfinished one resumes, unless its config or an earlier stage has changed.
set -eu
lass=$1
runs=runs/digits
before=experiments/digits/vqvae.yaml # result of the previous stage
export WANDB_MODE="${WANDB_MODE:-disabled}"
export LASS_GO_ON="make demo goes on from here"
trap 'exit 0' INT # after `lass`, which has said how to go on; make would report another status than 0

# Whether a file is there, and is at least as new as all others.
is_current() {
    [ -e "$1" ] || return 1
    for other in "$2" "$before"; do
        [ ! "$1" -ot "$other" ] || return 1
    done
}

# Run a training, given its name and a description.
training() {
    echo "$2"
    config=experiments/digits/$1.yaml finished=$runs/$1/finished last=$runs/$1/checkpoints/last.ckpt
    if is_current "$finished" "$config"; then
        echo "    finished in an earlier run"
    else
        if [ ! -e "$finished" ] && is_current "$last" "$config"; then
            "$lass" fit -c "$config" --ckpt_path=last
        else
            rm -f "$finished"
            "$lass" fit -c "$config"
        fi
        touch "$finished"
    fi
    before=$finished
}

training vqvae "1/4 Training the codec, a VQ-VAE, on 1,200 digits"
training prior "2/4 Training the prior on the codes of the digits"
training likelihood "3/4 Counting the likelihood of the codes of a mixture"
echo "4/4 Separating 100 mixtures of held-out digits"
if is_current $runs/separate/config.yaml experiments/digits/separate.yaml; then
    "$lass" predict -c experiments/digits/separate.yaml
else
    "$lass" predict -c experiments/digits/separate.yaml --model.overwrite=true
fi
cat <<END
Next:    $lass separate docs/mixture.png
         separates a mixture of two MNIST digits with models that are shipped; make help lists more.
END
