"""One file per op family: public function, forward, record and backward stand side by side."""
