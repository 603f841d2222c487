"""The program: flags, config, and one worker or several."""

import argparse
import os
import time

import config
import loader
import torch
import torch.multiprocessing as mp


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-cfg", "--cfg_file")
    parser.add_argument("-save", "--save_dir")
    parser.add_argument("-ckpt", "--ckpt_dir")
    parser.add_argument("-best", "--load_best", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-DDP", "--distributed_data_parallel", action="store_true")
    parser.add_argument("--backend", default="nccl")
    parser.add_argument("-mpc", "--mixed_precision", action="store_true")
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--freezeD", type=int, default=-1)
    parser.add_argument("-t", "--train", action="store_true")
    parser.add_argument("-metrics", "--eval_metrics", nargs="+", default=["none"])
    parser.add_argument("--print_freq", type=int, default=1)
    parser.add_argument("--save_freq", type=int, default=2)
    parser.add_argument("--entity")
    parser.add_argument("--project")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = read_arguments()
    cfgs = config.Configurations(arguments.cfg_file)
    cfgs.update_cfgs(vars(arguments), super="RUN")
    gpus_per_node = torch.cuda.device_count() if arguments.distributed_data_parallel else 1
    cfgs.OPTIMIZATION.world_size = gpus_per_node
    cfgs.check_compatability()
    run_name = f"mini-{time.strftime('%H_%M_%S')}-{time.perf_counter_ns()}"
    os.makedirs(arguments.save_dir, exist_ok=True)
    if arguments.distributed_data_parallel:
        mp.set_start_method("spawn", force=True)
        mp.spawn(loader.load_worker, (cfgs, gpus_per_node, run_name, None), nprocs=gpus_per_node)
    else:
        loader.load_worker(
            local_rank=0,
            cfgs=cfgs,
            gpus_per_node=gpus_per_node,
            run_name=run_name,
            hdf5_path=None,
        )
