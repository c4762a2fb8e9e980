"""verl's reward manager `naive`, which also passes on whether a completion was cut off."""

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from harness.models.chat import stop_ids


class FinishReasonRewardManager(NaiveRewardManager):  # type: ignore[misc]
    async def run_single(self, data: Any) -> dict[str, Any]:
        row = data[-1:]
        responses, info = row.batch["responses"][0], row.non_tensor_batch["extra_info"][0]
        n_tokens = int(row.batch["attention_mask"][0][-len(responses) :].sum())
        is_cut = n_tokens >= self.config.data.max_response_length and int(responses[n_tokens - 1]) not in self._ends()
        row.non_tensor_batch["extra_info"][0] = {**info, "finish_reason": "length" if is_cut else "stop"}
        found: dict[str, Any] = await super().run_single(row)
        return found

    def _ends(self) -> frozenset[int]:
        from transformers import GenerationConfig

        try:
            declared = GenerationConfig.from_pretrained(self.config.actor_rollout_ref.model.path).eos_token_id
        except OSError:  # a model without that file
            declared = None
        return stop_ids(declared, self.tokenizer)
