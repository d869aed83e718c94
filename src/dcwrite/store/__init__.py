"""Events at rest: everything that touches HDF5. The only room that imports h5py."""
