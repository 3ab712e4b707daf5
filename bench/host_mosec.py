"""mosec with a model that does nothing, for bench/host: `python host_mosec.py --port N`. Its workers import this file, so it stands alone."""

from mosec import Server, Worker


class Nothing(Worker):
    def forward(self, data):
        return None


if __name__ == "__main__":
    server = Server()
    server.append_worker(Nothing, num=1)
    server.run()
