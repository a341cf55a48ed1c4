"""What training data may be kept in, one file for each: all give the same images at the same index.

base.py         what all have in common
records.py      RecordIO: train.rec and train.idx
folders.py      image files, a sub-folder for each identity
tars.py         webdataset: tar files
parquet.py      Hugging Face: Parquet files
lmdb_file.py    LMDB, as Vec2Face+ publishes its images
synthetic.py    random images
merged.py       several of these, one after another
choice.py       which of them a path holds
"""
