"""One device or many: batch statistics by group. Process groups come with distributed training."""
