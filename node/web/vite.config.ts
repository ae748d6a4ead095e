// How the page is built and, while it is being worked on, served.
//
// Everything the page uses is a file of its own with a name that changes with its content: nothing is inlined, so the
// strict Content-Security-Policy of the node (`default-src 'self'`) holds, and browsers may keep each file for ever.

import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// A running node to work against: NODE=http://127.0.0.1:8081 npm run dev
const node = process.env.NODE ?? 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      '/api': {
        target: node,
        changeOrigin: true,
        ws: true,
        // The node answers only what its own page asks.
        configure: (proxy) => {
          proxy.on('proxyReq', (request) => request.setHeader('origin', node));
          proxy.on('proxyReqWs', (request) => request.setHeader('origin', node));
        },
      },
    },
  },
});
