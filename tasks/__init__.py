"""One pipeline stage each: fetch inputs, call the core, publish the output."""
