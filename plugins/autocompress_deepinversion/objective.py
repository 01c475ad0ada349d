"""The paper's objective on a batch of images."""

from __future__ import annotations

from autocompress.synthesis import Objective, class_loss, competition, feature_distance, image_norm, total_variation
from autocompress_deepinversion.settings import Settings


def objective(settings: Settings, has_student: bool) -> Objective:
    """Returns the weight and the function of each term, by name.

        min over x of  L_CE(T(x), y) + R(x),  T the teacher         the loss of DeepDream
        R = alpha_tv R_TV + alpha_l2 R_l2                           R_prior
          + alpha_f R_feature                                       R_DI, DeepInversion
          + alpha_c R_compete                                       R_ADI, Adaptive DeepInversion

    R_feature = sum_l ||mean_l(x) - E[mean_l | real]||_2 + ||var_l(x) - E[var_l | real]||_2, with
    the expectations that batch norms recorded; R_compete = 1 - JS(p_T, p_S), both at temperature 3.
    """
    terms: Objective = {
        "class": (1.0, class_loss),
        "tv": (settings.tv, total_variation()),
        "l2": (settings.l2, image_norm),
        "feature": (settings.feature, feature_distance(settings.first_norm)),
    }
    if has_student:
        return {**terms, "competition": (settings.competition, competition())}
    return terms
