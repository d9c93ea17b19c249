"""Do it and measure it: a plan becomes a trained model, with predicted beside measured. docs/run.md says what happens in which order.

Supervising    supervisor (`run_plan`, `check_run`), attempt, child_process, fallback, launch, node, run_folder, run_lock, supported*
Working        worker, train (`train`: one attempt), job, ranks, prepare, loop, callbacks, assemble_report, save_trained
The model      weights, stored_weights, pickle_weights, load_model, converted, gguf, rehearse (random weights), model_probe
The method     adapters, trainer, rank_schedule, sharding_arguments, resolved_calls (`run --dry-run`)
The data       data/ (rows of any file), chat_template, rendered, tokens, lengths, light_tokenizer
Measuring      rehearsal_step, meter, batch_shape, timeline*, calibrate, microbenchmark, bench_device, host_time, run_record
Never losing   checkpoints, safe_trainer, training_state, durable, save_failures, checkpoint_pickles, guards, out_of_memory
Showing        panel*, progress, trackers, report*, compare, unfinished
Afterwards     finished_run, model_card, chat, answer, merge, evaluate/, deploy/

Nothing is imported here: most of this room needs torch, which a plan does without.
"""
