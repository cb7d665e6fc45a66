// Worker that imports the package by its name, and fetches a piece from the address in the request.
import { createDownloader } from "vortex-peer";

export default {
  async fetch(request) {
    const { addr, taskId } = await request.json();
    const downloader = createDownloader({ protocol: "tcp" });
    try {
      const piece = await downloader.downloadPiece({ addr, hostId: "consumer", taskId, number: 0 });
      return new Response(await piece.bytes());
    } finally {
      await downloader.close();
    }
  },
};
