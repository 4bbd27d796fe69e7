"""Models as :mod:`craft_trainer.evaluation.scoring` reads them: one file per way of handing over a prompt."""
