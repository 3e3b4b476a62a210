"""KV cache: who owns which block (integers), and the tensors behind them."""
