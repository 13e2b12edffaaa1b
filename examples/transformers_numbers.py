"""Hugging Face's Trainer on numbers in words, odd or even: a small BERT and its tokenizer are made here."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import hpo_flows.transformers
from hpo_flows import TrialContext

EPOCHS = 9
"""The study's fidelity.max."""

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
ONES += ["seventeen", "eighteen", "nineteen"]
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]"}


def words(number: int) -> str:
    """A number below 1000 in words."""
    hundreds, rest = divmod(number, 100)
    said = [ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        said.append(TENS[rest // 10 - 2])
        rest %= 10
    return " ".join([*said, ONES[rest]] if rest or not said else said)


texts = [words(number) for number in range(1000)]
labels = np.arange(1000) % 2


def make_tokenizer() -> Any:
    """A tokenizer that knows the words of numbers."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), "hundred", *ONES, *TENS])}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = Whitespace()
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def accuracy(predicted: Any) -> dict[str, float]:
    """What is computed in every evaluation beside the loss."""
    return {"accuracy": float(np.mean(predicted.predictions.argmax(1) == predicted.label_ids))}


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` epochs."""
    hf.set_seed(trial.seed)
    rows, held_out = trial.split(labels, stratify=labels)
    tokenizer = make_tokenizer()
    data = [{"input_ids": tokenizer(text)["input_ids"], "labels": labels[index]} for index, text in enumerate(texts)]
    size = {"hidden_size": trial.config["hidden"], "intermediate_size": 64, "num_attention_heads": 2}
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=1,
        max_position_embeddings=16,
        hidden_dropout_prob=trial.config["dropout"],
        **size,
    )
    model = hf.BertForSequenceClassification(config)

    watch = hpo_flows.transformers.callback(trial)
    args = hf.TrainingArguments(
        str(trial.scratch / "trainer"),
        learning_rate=trial.config["learning_rate"],
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        eval_strategy="epoch",
        save_strategy="no",
        seed=trial.seed,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = hf.Trainer(
        model,
        args,
        train_dataset=[data[row] for row in rows],
        eval_dataset=[data[row] for row in held_out],
        processing_class=tokenizer,
        compute_metrics=accuracy,
        callbacks=[watch],
    )
    trainer.train(resume_from_checkpoint=watch.resume_from_checkpoint)
    pipeline = hf.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    trial.log_model(pipeline, ["forty two"])
    return watch.metrics
