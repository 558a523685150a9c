"""Fine-tuning: LoRA on rows that no suite holds, to a new model version that goes the common way: eval run, gate,
release. recipe.py says what is trained on what, training_rows.py chooses the rows, lora.py trains, agreement.py checks
the merged weights, finetune.py puts the steps together.
"""
