"""SciPy's sqrtm and scikit-learn's t-SNE."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from sklearn.manifold import TSNE

from topk_plugin.studiogan.fixes import sqrtm, tsne


def fid_module(own: Any) -> Any:
    module: Any = SimpleNamespace(linalg=own)
    sqrtm.FIX.after["metrics.fid"](module)
    return module


@given(size=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_sqrtm_as_studiogan_calls_it(size: int, seed: int) -> None:
    fid = fid_module(linalg)
    root = np.random.default_rng(seed).normal(size=(size, size))
    matrix = root @ root.T + np.eye(size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_disp, _ = fid.linalg.sqrtm(matrix, disp=False)
        without = fid.linalg.sqrtm(matrix)
    np.testing.assert_allclose(with_disp @ with_disp, matrix, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(with_disp, without)
    assert fid.linalg.norm is linalg.norm  # all else is SciPy's


def test_sqrtm_that_knows_no_disp() -> None:
    fid = fid_module(SimpleNamespace(sqrtm=lambda matrix: matrix**0.5))
    assert fid.linalg.sqrtm(4.0, disp=False)[0] == 2.0
    assert fid.linalg.sqrtm(4.0) == 2.0


def test_tsne_as_studiogan_calls_it() -> None:
    module: Any = SimpleNamespace(TSNE=TSNE)
    tsne.FIX.after["worker"](module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        made = module.TSNE(n_components=2, verbose=1, perplexity=40, n_iter=300)
    assert isinstance(made, TSNE)
    assert (made.max_iter, made.perplexity) == (300, 40)


def test_a_studiogan_without_tsne_stays_as_it_is() -> None:
    module: Any = SimpleNamespace()
    tsne.FIX.after["worker"](module)
    assert vars(module) == {}
