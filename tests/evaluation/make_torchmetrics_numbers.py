"""Writes `torchmetrics_numbers.json`: the Rouge-L F that torchmetrics 1.9.0 gives to small texts.

The paper's authors score with it, stemmed, the best of several references. Run by hand, from the
repository's root, in an environment that also has torchmetrics (it is no dependency of ours):

    pip install --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3
    python tests/evaluation/make_torchmetrics_numbers.py
"""

import json
from pathlib import Path

from torchmetrics.text.rouge import ROUGEScore

# Answer and targets.
ROWS: list[tuple[str, list[str]]] = [
    ("Paris", ["Paris"]),
    ("paris.", ["Paris"]),
    ("London", ["Paris"]),
    ("", ["Paris"]),
    ("?!", ["Paris"]),
    ("Paris", ["?!"]),
    ("The capital of France is Paris.", ["Paris"]),
    ("The capital of France is Paris.", ["Paris is the capital of France."]),
    ("It is Paris", ["London", "Paris", "It was Paris"]),
    ("running runs ran runner", ["run run run run"]),
    ("The cats were sitting on the mats", ["the cat sat on the mat"]),
    ("generously organised organisations", ["generous organisation organise"]),
    ("was has his this", ["wa ha hi thi"]),  # words of at most three letters keep their endings
    ("the the the the", ["the"]),
    ("a b c d e f g", ["g f e d c b a"]),
    ("a b c d e f g", ["a c e g"]),
    ("a x b y c z", ["a b c", "x y z"]),
    ("one\ntwo\r\nthree\tfour", ["one two three four"]),
    ("snake_case and kebab-case", ["snake case and kebab case"]),
    ("isn't it Tom's?", ["is not it Tom's"]),
    ("3.14", ["3,14"]),
    ("-5", ["5"]),
    ("1,234 items at 50%", ["1234 items at 50 percent"]),
    ("SELECT name FROM users WHERE id = 3;", ["SELECT id, name FROM users WHERE id = 3"]),
    ('{"name": "Ada", "born": 1815}', ['{"born": 1815, "name": "Ada"}']),
    ("naïve café", ["naive cafe"]),
    ("Zürich liegt in der Schweiz", ["Zurich liegt in der Schweiz"]),
    ("Привет, мир", ["Привет, мир"]),  # nothing is left of either
    ("東京 is the capital", ["Tokyo is the capital"]),
    ("yes yes no yes no", ["no yes yes no"]),
    ("dying lying tied ties skies", ["die lie tie tie sky"]),
    ("Answer: (b) because it rained all day", ["(b)", "b", "Because of the rain"]),
]


def main() -> None:
    rows = []
    for answer, targets in ROWS:
        scorer = ROUGEScore(rouge_keys="rougeL", use_stemmer=True, accumulate="best")
        scorer.update([answer], [targets])
        value = scorer.compute()["rougeL_fmeasure"].item()
        rows.append({"answer": answer, "targets": targets, "rouge_l": value})
    path = Path(__file__).with_name("torchmetrics_numbers.json")
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
