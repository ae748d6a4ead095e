// The room's page: mounts the app. What it shows is chosen by the path (`route.svelte.ts`), in the language that was
// chosen last (`words.svelte.ts`), of what the node says now (`now.svelte.ts`).

import { mount } from 'svelte';
import App from './App.svelte';
import './style/tokens.css';
import './style/base.css';

const target = document.getElementById('app');
if (target) mount(App, { target });
