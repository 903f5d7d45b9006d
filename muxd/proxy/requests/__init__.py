"""What a request asks for: its route, the model it names, and what of its body a worker is to see."""
