"""Do it and measure it. Data, training, memory meter, report.

Public names: `train.run_plan`, `train.check_run`; `report.RunReport`, `report.read_report`, `report.comparison_rows`,
`report.fail_on_miss`; `data.load_rows`, `data.demo_data_path`; `demo_model.demo_model_folder`. They are not imported here: most of
this room needs torch, which a plan does without.
"""
