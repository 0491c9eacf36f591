from ..test_hiding import test_equal_to_masked_dense_attention_with_gradients as check


def test_rows_of_a_batch_hide_keys_of_their_own():
    check("band")
