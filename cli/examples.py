"""What each command is for, and examples of it: the last thing its help shows."""

SUMMARY = "Train latent diffusion models on your own labelled images, one stage at a time."
STAGES = {
    "train-vqvae": "Train an autoencoder on images, or take a ready one.",
    "encode": "Encode the images into shards of latents.",
    "train-dit": "Train a diffusion transformer on the latents.",
    "train-classifier": "Train a small classifier, for metrics without downloads.",
    "sample": "Draw images by class.",
    "eval": "Measure samples or reconstructions against real images.",
}
ALIASES = {"precompute-latents": "encode"}
TOOLS = {
    "sweep": "Draw and judge samples over guidance scales and steps.",
    "report": "Put a run's curves, pictures and numbers on one page.",
    "plot": "Draw schedules, loss weights, noising, denoising, samplers or guidance.",
    "verify": "Check every byte of a run or of any folder in it.",
    "inspect": "Say what a folder is, what made it and how far it is.",
    "doctor": "Check that this machine and what is installed can run every stage.",
    "estimate": "Tell what a recipe costs: operations, memory, disk, time.",
    "export": "Write a folder that diffusers loads, with a model card.",
    "import": "Take in a DiT checkpoint or a diffusers DiT folder as a run.",
}
DATA = {
    "inspect": "Count images, name broken ones, and say what training would make of them.",
    "dedup": "Find images that are there twice, or nearly so; write lists, delete nothing.",
}
SETTINGS = {
    "recipes": "List the recipes at hand, print one, or copy one to be edited.",
    "config": "Show a stage's settings and where each was set, or tell of all settings.",
    "data": "Look at images before they are trained on.",
    "plan": "Write what each stage of a recipe depends on; used by make.",
}
ALL = {**STAGES, **TOOLS, **SETTINGS, **{f"data {name}": summary for name, summary in DATA.items()}}
EXAMPLES = {
    "": (
        "ldm train-vqvae --data photos/ --image-size 64 --name mine",
        "ldm encode --name mine",
        "ldm train-dit --name mine --images 2M",
        "ldm sample --name mine --class cat --cfg 3",
        "ldm train-classifier --name mine",
        "ldm eval --name mine",
    ),
    "train-vqvae": (
        "ldm train-vqvae --data mnist --no-flip --image-size 32",
        "ldm train-vqvae -c imagenette-64 --images 500k --lr 2e-4",
        "ldm train-vqvae --data photos/ --autoencoder models/sd-vae",
        "ldm train-vqvae --data photos/ loss.adversarial_weight=0.1",
    ),
    "encode": ("ldm encode", "ldm encode --name mine --batch-size 256"),
    "train-dit": (
        "ldm train-dit",
        "ldm train-dit --preset DiT-S/2 --images 5M --name mine",
        "ldm train-dit --prediction eps --weighting snr train.decay=cosine",
        "ldm train-dit --schedule rectified-flow --times logit-normal",
        "ldm train-dit --metrics-every 100k metrics.num=1000",
        "torchrun --nproc-per-node 4 -m ldm train-dit --name mine",
    ),
    "train-classifier": (
        "ldm train-classifier",
        "ldm train-classifier --data photos/ --images 200k",
        "ldm train-classifier --noisy",
    ),
    "sample": (
        "ldm sample --class 3 --cfg 3",
        "ldm sample --class cat,dog --count 8 --seed 17",
        "ldm sample --class 0-4 --sampler dpmpp-2m --progressive",
        "ldm sample --class 3 --cfg 1 --classifier-scale 2",
        "ldm sample --class 3 --checkpoint best",
    ),
    "eval": (
        "ldm eval",
        "ldm eval --of reconstructions",
        "ldm eval --bits-per-dim",
        "ldm eval --samples path/to/images --reference photos/",
    ),
    "sweep": ("ldm sweep --cfg 1,1.5,2,3,5", "ldm sweep --cfg 3 --steps 5,10,20,50 --sampler dpmpp-2m"),
    "report": ("ldm report", "ldm report mine"),
    "plot": (
        "ldm plot schedule",
        "ldm plot weights --schedule linear --out linear-weights.png",
        "ldm plot noising --data photos/ --count 3",
        "ldm plot denoising --name mine --cfg 2",
    ),
    "verify": ("ldm verify runs/default", "ldm verify runs/mine/latents", "ldm verify runs/mine/dit/checkpoints"),
    "inspect": ("ldm inspect runs/default", "ldm inspect runs/mine/dit", "ldm inspect runs/mine/dit/final --json"),
    "doctor": ("ldm doctor", "ldm doctor --quick", "ldm doctor --runs-dir /data/runs --device cuda --json"),
    "estimate": (
        "ldm estimate mnist",
        "ldm estimate imagenette-64 --machine a100",
        "ldm estimate --preset DiT-XL/2 --latent 4,32,32 --classes 1000 --batch-size 1024 --gpus 8 --machine h200",
    ),
    "recipes": ("ldm recipes ls", "ldm recipes show mnist", "ldm recipes copy mnist mine.yaml"),
    "recipes ls": ("ldm recipes ls", "ldm recipes ls --json"),
    "recipes show": ("ldm recipes show mnist", "ldm recipes show path/to/recipe.yaml"),
    "recipes copy": ("ldm recipes copy mnist mine.yaml",),
    "config": ("ldm config show train-dit -c mnist", "ldm config schema > recipe.schema.json"),
    "config schema": ("ldm config schema > recipe.schema.json", "ldm config schema train-dit"),
    "config reference": ("ldm config reference docs",),
    "export": (
        "ldm export --to diffusers mine-diffusers",
        "ldm export --name mine exports/mine --replace",
    ),
    "import": (
        "ldm import DiT-XL-2-256x256.pt --autoencoder sd-vae-ft-ema --name dit-xl",
        "ldm import path/to/pipeline --name theirs",
    ),
    "show": ("ldm config show train-dit -c mnist", "ldm config show sample --cfg 2 > mine.yaml"),
    "config show": ("ldm config show train-dit -c mnist", "ldm config show sample --cfg 2 > mine.yaml"),
    "data": ("ldm data inspect photos/", "ldm data dedup photos/ --out twins.jsonl"),
    "data inspect": (
        "ldm data inspect photos/",
        "ldm data inspect photos.zip --image-size 128 --sheet photos.png",
        "ldm data inspect mnist --json",
    ),
    "data dedup": (
        "ldm data dedup photos/ --sheet twins.png",
        "ldm data dedup photos/ --mirrored --out twins.jsonl --exclude-out twins.txt",
        "ldm data dedup photos/ --features mobilenet-v2 --weights mobilenet_v2-b0353104.pth",
    ),
    "plan": ("ldm plan -c mnist", "ldm plan -c recipes/cifar10.yaml --name cifar"),
}
