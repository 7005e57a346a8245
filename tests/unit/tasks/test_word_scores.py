"""Scores of words against scikit-learn, against values worked out by hand, and over whole folds."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from ndt3_dist.tasks.words.decoders.closed_baselines import best_ridge, logistic
from ndt3_dist.tasks.words.scores import class_scores as c
from ndt3_dist.tasks.words.scores import embedding_scores as e
from ndt3_dist.tasks.words.scores import fold_scores as f

RNG = np.random.default_rng(0)


def test_pairwise_accuracy_by_hand():
    true = np.array([[1, 0], [0, 1], [-1, 0.0]])
    predicted = np.array([[1, 0.1], [0.9, 1], [1, 0.2]])
    # Of word 0 both others are farther; of word 1 both (0 by .67 < .74); of word 2 none.
    assert e.pairwise_accuracy(predicted, true) == pytest.approx((1 + 1 + 0) / 3)


def test_pairwise_accuracy_is_what_all_pairs_say():
    true, predicted = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 7))
    similar = e.cosines(predicted, true)
    pairs = [similar[i, i] > similar[i, j] for i in range(40) for j in range(40) if i != j]
    assert e.pairwise_accuracy(predicted, true) == pytest.approx(np.mean(pairs))


def test_a_constant_prediction_and_a_repeated_word_win_nothing():
    true = RNG.normal(size=(50, 5))
    assert e.pairwise_accuracy(np.tile(true.mean(0), (50, 1)), true) == pytest.approx(0.5)
    assert e.pairwise_accuracy(np.zeros((50, 5)), true) == 0  # no direction: all are equal
    same = np.tile(true[:1], (50, 1))
    assert e.pairwise_accuracy(RNG.normal(size=(50, 5)), same) == 0


def test_roc_auc_is_scikit_learns_with_ties():
    scores, positive = RNG.integers(0, 6, 200) / 5, RNG.random(200) < 0.3
    assert e.roc_auc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores))
    assert math.isnan(e.roc_auc(scores, np.ones(200, bool)))


def test_area_by_word_follows_its_definition_and_its_minimum_of_occurrences():
    words = [f"w{i}" for i in RNG.integers(0, 6, 90)]
    true, predicted = RNG.normal(size=(90, 8)), RNG.normal(size=(90, 8))
    train = {"w0": 9, "w1": 5, "w2": 4, "w3": 20}
    found = e.word_auc(e.cosines(predicted, true), words, train)
    distances, names = 1 - e.cosines(predicted, true), sorted({*words})
    texts = np.array(words)
    shares = np.stack([distances[:, texts == n].mean(axis=1) for n in names], axis=1)
    shares = np.exp(1 - shares) / np.exp(1 - shares).sum(axis=1, keepdims=True)
    areas = {n: sk.roc_auc_score(texts == n, shares[:, i]) for i, n in enumerate(names)}
    kept = ["w0", "w1", "w3"]  # five times in training or more
    assert found["word_auc_words"] == 3
    assert found["word_avg_auc_roc"] == pytest.approx(np.mean([areas[w] for w in kept]))
    weighted = np.average([areas[w] for w in kept], weights=[train[w] for w in kept])
    assert found["word_train_weighted_auc_roc"] == pytest.approx(weighted)
    weighted = np.average([areas[w] for w in kept], weights=[words.count(w) for w in kept])
    assert found["word_test_weighted_auc_roc"] == pytest.approx(weighted)
    assert math.isnan(e.word_auc(e.cosines(predicted, true), words, {})["word_avg_auc_roc"])


def test_top_k_is_scikit_learns_by_word_and_by_occurrence():
    words = [f"w{i}" for i in RNG.integers(0, 12, 60)]
    similar = e.cosines(RNG.normal(size=(60, 8)), RNG.normal(size=(60, 8)))
    distances, names = e.word_distances(1 - similar, words)
    found = e.ranked(similar, words)
    labels = np.searchsorted(names, words)
    for k in (1, 5, 10):
        by_word = sk.top_k_accuracy_score(labels, 1 - distances, k=k, labels=range(len(names)))
        assert found[f"word_top_{k}"] == pytest.approx(by_word)
        by_occurrence = sk.top_k_accuracy_score(range(60), similar, k=k)
        assert found[f"occurence_top_{k}"] == pytest.approx(by_occurrence)


def test_perplexity_of_a_perfect_prediction_is_1_and_no_softmax_is_taken_twice():
    assert e.perplexity(np.eye(300), np.arange(300)) == 1
    assert e.perplexity(np.full((4, 300), 1 / 300), np.zeros(4, int)) == pytest.approx(300)
    true, words = RNG.normal(size=(300, 50)), [f"w{i:03d}" for i in range(300)]
    similar = e.cosines(true, true)
    found = e.ranked(similar, words, temperature=e.best_temperature(similar, words))
    assert found["word_perplexity"] == pytest.approx(1)
    assert found["occurence_perplexity"] == pytest.approx(1)


def test_nll_is_the_cross_entropy_of_cosines():
    true, predicted = RNG.normal(size=(32, 6)), RNG.normal(size=(32, 6))
    expected = sk.log_loss(np.arange(32), e.softmax(e.cosines(predicted, true)))
    assert e.nll_embedding(predicted, true) == pytest.approx(expected)
    assert e.nll_embedding(np.zeros((32, 6)), true) == pytest.approx(np.log(32))  # chance


def test_classification_is_scikit_learns():
    labels, shares = RNG.integers(0, 4, 200), RNG.dirichlet(np.ones(4), 200)
    found, guessed = c.class_scores(shares, labels), shares.argmax(1)
    area = sk.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    assert found["roc_auc_multiclass"] == pytest.approx(area)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, guessed, average="weighted"))
    assert found["acc"] == pytest.approx(sk.accuracy_score(labels, guessed))
    assert found["cross_entropy"] == pytest.approx(sk.log_loss(labels, shares))
    confusion = c.confusion_matrix(guessed, labels, 4)
    assert (confusion == sk.confusion_matrix(labels, guessed)).all()


def test_two_classes_are_scikit_learns_from_probabilities_and_from_logits():
    labels, logits = RNG.integers(0, 2, 200), RNG.normal(size=200) * 3
    one = 1 / (1 + np.exp(-logits))
    for outputs in (one, logits, one[:, None]):
        found = c.class_scores(outputs, labels)
        assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, one))
        assert found["sensitivity"] == pytest.approx(sk.recall_score(labels, one > 0.5))
        assert found["precision"] == pytest.approx(sk.precision_score(labels, one > 0.5))
        specificity = sk.recall_score(labels, one > 0.5, pos_label=0)
        assert found["specificity"] == pytest.approx(specificity)


def test_probabilities_stay_what_they_are():
    shares = RNG.dirichlet(np.ones(5), 20)
    assert c.as_probabilities(shares) == pytest.approx(shares)
    assert c.as_probabilities(np.log(shares) + 3) == pytest.approx(shares)


def test_numbers_are_scored_over_the_whole_fold():
    true = np.repeat([0.0, 10.0], 32)  # batches of 32 are constant, the fold is not
    predicted = true + RNG.normal(size=64)
    assert c.r2(predicted, true) == pytest.approx(sk.r2_score(true, predicted))
    assert c.r2(predicted, true) > 0.9
    assert c.pearson(predicted, true) == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert c.mse(predicted, true) == pytest.approx(sk.mean_squared_error(true, predicted))
    assert math.isnan(c.pearson(np.ones(64), true))


def test_permutations_find_what_is_there_and_correct_for_the_number_of_lags():
    draw = np.random.default_rng(7)
    true = draw.normal(size=(60, 5))
    orders = f.null_orders(99, 60, "shift")
    assert all(sorted(o) == list(range(60)) and (o != np.arange(60)).all() for o in orders)
    predicted = [true + draw.normal(size=true.shape), *draw.normal(size=(9, 60, 5))]
    observed = np.array([e.pairwise_accuracy(p, true) for p in predicted])
    null = np.array([f.null_statistics("vector", p, true, orders) for p in predicted])
    one = e.pairwise_accuracy(predicted[1], true[orders[3]])
    assert null[1, 3] == pytest.approx(one)
    alone, corrected = f.corrected_p(observed, null)
    assert alone[0] == corrected[0] == pytest.approx(0.01)
    assert (corrected >= alone).all()
    assert corrected[1:].min() > 0.01
    by_hand = (1 + (null.max(axis=0) >= observed[4]).sum()) / 100
    assert corrected[4] == pytest.approx(by_hand)


def test_nulls_of_classes_and_numbers_are_scores_of_turned_truth():
    labels, outputs = RNG.integers(0, 2, 50), RNG.random(50)
    orders = f.null_orders(5, 50, "shuffle")
    found = f.null_statistics("class", outputs, labels, orders)
    assert found[2] == pytest.approx(sk.roc_auc_score(labels[orders[2]], outputs))
    found = f.null_statistics("number", outputs, labels.astype(float), orders)
    assert found[1] == pytest.approx(np.corrcoef(outputs, labels[orders[1]])[0, 1])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rows", [80, 12])  # more words than features, and fewer
def test_logistic_regression_is_scikit_learns(classes, rows):
    x, labels = RNG.normal(size=(rows, 20)), np.arange(rows) % classes
    weights, offsets = logistic(x, labels, classes, penalty=2.0)
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=2000).fit(x, labels)
    ours = x @ weights + offsets
    ours -= ours.mean(axis=1, keepdims=True) if classes > 2 else 0
    assert ours.squeeze() == pytest.approx(theirs.decision_function(x).squeeze(), abs=1e-3)


def test_ridge_takes_the_penalty_that_validation_words_prefer():
    x, weights = RNG.normal(size=(60, 30)), RNG.normal(size=(30, 2))
    y = x @ weights + 5 * RNG.normal(size=(60, 2))
    tried = []

    def score(predicted):
        tried.append(-c.mse(predicted, y[40:]))
        return tried[-1]

    found = best_ridge(x[:40], y[:40], x[40:], score, [0.1, 10.0, 1e6])
    assert float(found.penalty) == [0.1, 10.0, 1e6][int(np.argmax(tried))]
