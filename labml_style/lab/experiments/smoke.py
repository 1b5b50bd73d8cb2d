"""An experiment that ends in seconds: does the lab work on this machine?"""

from __future__ import annotations

from dataclasses import replace

from labml_style.lab.experiments.training import FEW, SMALL
from labml_style.lab.presets import Arm, Measure, Preset

TINY = replace(
    SMALL, d_model=32, layers=2, heads=2, d_ff=64, segment_length=16, dropout=0.1
)

PRESETS = (
    Preset(
        name="smoke",
        form="cpu",
        question="Does the lab work on this machine?",
        corpus="python-docs",
        arms={
            name: Arm(
                config=replace(TINY, memory_length=m),
                training=replace(FEW, steps=60, warmup=10, accumulate=2),
                batch=8,
                measures={"carried": Measure(limit=4000, warm_up=16)},
            )
            for name, m in (("memory", 16), ("alone", 0))
        },
        seeds=(0,),
        expect="It ends in seconds, below 6 bits per byte.",
        contradict="It does not.",
        minutes=0.2,
        valid_every=20,
        keep="memory-0",
    ),
)
