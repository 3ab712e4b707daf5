# A folder that exists is enough here.
